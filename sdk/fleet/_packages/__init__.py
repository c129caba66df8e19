"""``packages=[...]``: ``locking`` from requirements to zips; ``resolving`` by uv, ``index`` where, ``cache`` what is kept."""
