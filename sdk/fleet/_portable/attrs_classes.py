"""Take attrs classes apart: the fields and what attrs wrote, by the public record that attrs keeps of it."""

from __future__ import annotations

from typing import Any

from fleet._portable.world import CannotTravel, World

_OPTIONS = (
    "default",
    "validator",
    "repr",
    "eq",
    "order",
    "hash",
    "init",
    "converter",
    "kw_only",
    "alias",
    "on_setattr",
)


def take_apart(world: World, cls: type, attributes: dict[str, Any]) -> dict[str, Any]:
    """Fields and parameters of an attrs class; what attrs wrote is taken out of ``attributes``."""
    if not world.has("attr"):
        raise CannotTravel(
            f"the attrs class {cls.__qualname__}",
            "needs attrs on the car",
            'give the function packages=["attrs"], or make it a dataclass',
            about=cls,
        )
    written = {name for name, value in attributes.items() if _is_written(value)}
    frozen = getattr(vars(cls).get("__setattr__"), "__name__", "") == "_frozen_setattrs"
    params = {
        "init": "__init__" in written,
        "repr": "__repr__" in written,
        "eq": "__eq__" in written,
        "order": "__lt__" in written,
        "frozen": frozen,
        "match_args": "__match_args__" in attributes,
    }
    if "__hash__" in written and not (params["eq"] and frozen):
        params["unsafe_hash"] = True
    if "__attrs_own_setattr__" in attributes and not frozen:
        import attr.setters

        params["on_setattr"] = [attr.setters.convert, attr.setters.validate]
    fields = [(one.name, _options(one)) for one in cls.__attrs_attrs__ if not one.inherited]  # type: ignore[attr-defined]
    drop = written | {"__attrs_attrs__", "__attrs_props__", "__attrs_own_setattr__", "__match_args__"}
    drop |= {name for name in ("__getstate__", "__setstate__") if _home(attributes.get(name)) == "attr._make"}
    if params["eq"]:
        drop |= {"__ne__"} | ({"__hash__"} if attributes.get("__hash__", 0) is None else set())
    if frozen:
        drop |= {"__setattr__", "__delattr__"}
    for name in drop:
        attributes.pop(name, None)
    return {"params": params, "fields": fields, "slots": "__slots__" in vars(cls)}


def _home(value: Any) -> str:
    return str(getattr(value, "__globals__", {}).get("__name__", ""))


def _options(field: Any) -> dict[str, Any]:
    options = {name: getattr(field, name) for name in _OPTIONS if hasattr(field, name)}
    if field.metadata:
        options["metadata"] = dict(field.metadata)
    if options["default"] is _nothing():
        del options["default"]
    return {name: value for name, value in options.items() if value is not None}


def _nothing() -> Any:
    import attr

    return attr.NOTHING


def _is_written(value: Any) -> bool:
    code = getattr(value, "__code__", None)
    return code is not None and code.co_filename.startswith("<attrs generated")
