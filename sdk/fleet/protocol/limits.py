"""Every limit of the platform, in one place, with the relations between them asserted at import.

Units are in the names: ``*_s`` seconds, ``*_bytes`` bytes. Standard library only: the wasm guest imports this too.
"""

PROTOCOL = 1
"""Version of the wire protocol. A principal with N or N-1 is served, others are told what to upgrade."""
PROTOCOL_MIN = 1

KIB = 1024
MIB = 1024 * KIB

# --- names -----------------------------------------------------------------------------------------------------------
TOKEN_CHARS_MAX = 64

# --- sizes -----------------------------------------------------------------------------------------------------------
MESSAGE_BYTES_MAX = 8 * MIB
"""The broker's ``max_payload``: no single message is larger."""
INLINE_ARGS_BYTES_MAX = 64 * KIB
"""Arguments up to this size lie in the queue itself; larger ones are blobs that the queue names by digest."""
INLINE_RESULT_BYTES_MAX = 4 * MIB
"""Results up to this size lie in the outcome record; larger ones are blobs."""
SUBMIT_INLINE_BYTES_MAX = 4 * MIB
"""Arguments up to this size travel inside the submit request; larger ones are put as blobs first."""
BLOB_PART_BYTES = 2 * MIB
PAYLOAD_BYTES_MAX = 256 * MIB
BUNDLE_BYTES_MAX = 64 * MIB
BUNDLE_DATA_BYTES_MAX = 16 * MIB
BUNDLE_DATA_FILES_MAX = 2000
PACKAGE_BYTES_MAX = 64 * MIB
"""One package of a function, as it is stored (a zip)."""
PACKAGES_BYTES_MAX = 256 * MIB
"""All packages of one function together."""
REFS_BYTES_MAX = 256 * MIB
"""All values of ``fleet.put`` that the arguments of one call (or of one chunk of a map) refer to."""
MANIFEST_BYTES_MAX = 64 * KIB
WEIGHTS_PIECE_BYTES_MAX = 128 * MIB
"""One blob of a jax program's weights. A larger leaf is cut."""
WEIGHTS_BYTES_MAX = 4096 * MIB
"""All weights of one jax program together."""
CHECKPOINT_BYTES_MAX = 4 * MIB
SAVED_BYTES_MAX = CHECKPOINT_BYTES_MAX + KIB
"""A checkpoint with what a generator notes beside it."""
STREAM_WINDOW_BYTES = 4 * MIB
LOG_LINE_BYTES_MAX = 16 * KIB
LOG_BYTES_PER_CALL_MAX = 1 * MIB
ERROR_TEXT_CHARS_MAX = 64 * KIB
CODEC_DEPTH_MAX = 64
CODEC_VALUES_MAX = 16_000_000
"""Values (elements of containers, all together) in one result; long lists of numbers count as one."""

# --- events ----------------------------------------------------------------------------------------------------------
EVENT_DATA_BYTES_MAX = 1 * MIB
EVENT_SUBJECT_CHARS_MAX = 255
EVENT_SUBJECT_TOKENS_MAX = 16
EVENT_ATTRIBUTE_CHARS_MAX = 1024
EVENT_EXTENSIONS_MAX = 32
EVENT_HEAD_BYTES_MAX = 32 * KIB
"""All attributes of an event together."""
PUBLISH_EVENTS_MAX = 512
"""Events in one publish request."""
EVENT_CHUNK_MAX = 256
"""Events in one invocation."""
EVENT_BATCH_MAX = 10_000
"""Events in one call of a function with ``batch=``."""
EVENT_BATCH_BYTES_MAX = 16 * MIB
EVENT_WAIT_S_MAX = 24 * 3600.0
"""Longest ``max_wait`` of a batch, longest ``debounce``."""
EVENT_HOPS_MAX = 16
"""Functions that an event and what follows from it may go through; loops end here."""
EMITS_MAX = 256
EMITS_BYTES_MAX = 1 * MIB
"""Events that one call may emit, and their size together."""
EXPRESSION_CHARS_MAX = 1000
TRIGGERS_MAX = 32
"""Triggers of one function."""
HTTP_PATH_CHARS_MAX = 512
HTTP_BODY_BYTES_MAX = 4 * MIB
EVERY_S_MIN = 1.0
EVERY_S_MAX = 366 * 24 * 3600.0
EVENTS_MAX = 2_000_000
"""Events that are kept, handled or not, of all tenants together."""
EVENTS_BYTES_MAX = 4 * 1024 * MIB
EVENTS_S_MAX = 8 * 24 * 3600.0
"""An event is kept so long: to start functions that aren't ready for it, and to know its copies."""
TICKS_MISSED_MAX = 10_000
"""Ticks of one clock that are made up for with ``missed="all"``."""
TICK_GRACE_S = 1.0
"""A tick that is noticed later than this counts as missed."""

# --- jax lane --------------------------------------------------------------------------------------------------------
ARRAY_DIMENSIONS_MAX = 32
JAX_LEAVES_MAX = 4096
"""Arrays that a jax program takes (weights included), and gives."""
WEIGHTS_PIECES_MAX = 256
BATCH_SIZE_MAX = 1024
BATCH_WAIT_S_MAX = 1.0
KEPT_MAX = 16
"""Values that one call may keep on the device (``fleet.keep``)."""

# --- counts ----------------------------------------------------------------------------------------------------------
SUBMIT_CALLS_MAX = 512
"""Calls in one submit request."""
CHUNK_ITEMS_MAX = 4096
"""Items of a map in one invocation."""
PACKAGES_MAX = 128
"""Packages of one function, those that its packages need included."""
REFS_MAX = 64
"""Values of ``fleet.put`` in the arguments of one call (or of one chunk of a map)."""
STREAM_WINDOW_ITEMS = 1024
"""A generator runs at most this many items, or STREAM_WINDOW_BYTES and one item, ahead of what its caller consumed."""
GRANT_LEASES_MAX = 64
LEASES_PER_CAR_MAX = 1024
OUTCOMES_PER_REPORT_MAX = 64
CAR_LOSSES_MAX = 5
"""Cars in a row that may vanish under one call before its outcome is CarLost."""
QUEUE_CALLS_MAX = 1_000_000
TENANT_QUEUE_SHARE = 0.5
"""One tenant holds at most this share of the queue."""
QUEUE_BYTES_MAX = 4 * 1024 * MIB
OUTCOMES_BYTES_MAX = 8 * 1024 * MIB
BLOBS_BYTES_MAX = 16 * 1024 * MIB
KEPT_BYTES_MAX = 4 * 1024 * MIB
"""Copies of what stays on a device take this much of it at most; those used longest ago go first."""
LOGS_BYTES_MAX = 512 * MIB
LIST_ROWS_MAX = 1000

# --- times -----------------------------------------------------------------------------------------------------------
BEAT_S = 2.0
BEAT_RETRY_S = 0.25
"""A beat that isn't answered is repeated this soon: a new leader must hear of a lease before its car fences itself."""
LEASE_S = 6.0
"""A lease lapses when no beat for it was answered for this long; a car fences itself before."""
LEASE_GRACE_S = 0.5
"""The dispatcher waits this much longer than the car: its slots are dead before the work goes elsewhere."""
GRANT_ACCEPT_S = 0.25
LEADER_TTL_S = 3.0
LEADER_RENEW_S = 0.75
ADOPTION_S = BEAT_S + 0.5
"""A new leader hears beats for this long before it grants anything that was queued before it led."""
SIGNAL_STALE_S = 30.0
RESULT_POLL_S = 5.0
REQUEST_S = 5.0
CONNECT_S = 2.5
OUTCOME_RESEND_S = 1.0
STREAM_BEAT_S = 2.0
"""Whoever iterates a remote generator says this often that it is there, and how far it is."""
STREAM_IDLE_S = 60.0
"""A generator call whose caller wasn't heard for this long is cancelled."""
STREAM_PART_TTL_S = 3600.0
"""Parts of a generator are kept this long at most: whoever wants them has them soon, or never will."""
LOG_FOLLOW_S = 30.0
"""Live log lines are pushed for this long after the last time that was asked for."""
TIMEOUT_S_DEFAULT = 60.0
TIMEOUT_S_MAX = 24 * 3600.0
RESULT_TTL_S_DEFAULT = 7 * 24 * 3600.0
RESULT_TTL_S_MIN = 60.0
BLOB_TTL_S = 8 * 24 * 3600.0
KEPT_TTL_S = 3600.0
"""Copies of what stays on a device (``fleet.keep``) live this long from their last put or use: a long generation makes one
with every block, and each is used once."""
DEADLINE_GRACE_S = 0.25
CAR_RECORD_TTL_S = 600.0
OFFLINE_S = LEASE_S + LEASE_GRACE_S
"""A car unheard for this long shows as offline."""

# --- sandbox ---------------------------------------------------------------------------------------------------------
MEMORY_BYTES_DEFAULT = 256 * MIB
MEMORY_BYTES_MIN = 64 * MIB
MEMORY_BYTES_MAX = 4096 * MIB - 64 * KIB
SCRATCH_BYTES_MAX = 64 * MIB

assert LEASE_S >= 2 * BEAT_S, "a lease must survive one lost beat"
assert LEADER_TTL_S + BEAT_RETRY_S + 0.5 < LEASE_S - BEAT_S, "a killed leader is replaced before any car fences itself"
assert LEADER_TTL_S >= 3 * LEADER_RENEW_S, "a leader must survive two slow renewals"
assert ADOPTION_S > BEAT_S, "adoption must hear one beat of every live car"
assert LEADER_TTL_S + ADOPTION_S < LEASE_S + LEASE_GRACE_S + BEAT_S, "a change of leader must not cost live leases"
assert SUBMIT_INLINE_BYTES_MAX < MESSAGE_BYTES_MAX and INLINE_RESULT_BYTES_MAX < MESSAGE_BYTES_MAX
assert INLINE_ARGS_BYTES_MAX <= SUBMIT_INLINE_BYTES_MAX
assert BLOB_PART_BYTES < MESSAGE_BYTES_MAX
assert PAYLOAD_BYTES_MAX % BLOB_PART_BYTES == 0
assert BUNDLE_BYTES_MAX <= PAYLOAD_BYTES_MAX and PACKAGE_BYTES_MAX <= PAYLOAD_BYTES_MAX, "code travels as blobs"
assert REFS_BYTES_MAX >= PAYLOAD_BYTES_MAX, "every value that can be put can be used"
assert WEIGHTS_PIECE_BYTES_MAX <= PAYLOAD_BYTES_MAX, "weights travel as blobs"
assert WEIGHTS_PIECES_MAX * WEIGHTS_PIECE_BYTES_MAX >= 2 * WEIGHTS_BYTES_MAX, "pieces are at least half full"
assert GRANT_ACCEPT_S < BEAT_S
assert STREAM_WINDOW_ITEMS <= CHUNK_ITEMS_MAX, "what a car may have unreported fits one report"
assert STREAM_IDLE_S > 5 * STREAM_BEAT_S and STREAM_PART_TTL_S > 10 * STREAM_IDLE_S
assert PROTOCOL_MIN <= PROTOCOL
assert KEPT_BYTES_MAX <= BLOBS_BYTES_MAX // 4 and KEPT_BYTES_MAX >= PAYLOAD_BYTES_MAX and KEPT_TTL_S <= BLOB_TTL_S
assert EVENTS_S_MAX > RESULT_TTL_S_DEFAULT, "an event's copies are known as long as its outcome"
assert (
    EVENT_DATA_BYTES_MAX + EVENT_HEAD_BYTES_MAX < SUBMIT_INLINE_BYTES_MAX and EMITS_BYTES_MAX < INLINE_RESULT_BYTES_MAX
)
assert EVENT_CHUNK_MAX <= CHUNK_ITEMS_MAX and EVENT_BATCH_BYTES_MAX <= PAYLOAD_BYTES_MAX
assert RESULT_TTL_S_DEFAULT <= BLOB_TTL_S, "blobs of a result outlive the record that names them"
