"""What starts a function besides a call: they stand in its manifest, so they change with it, in one step."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from fleet.protocol import limits
from fleet.protocol.messages.base import Message

Missed = Literal["skip", "one", "all"]
"""What becomes of ticks that nobody was there for: none, the newest of them, or each."""
_Period = Annotated[float, Field(ge=limits.EVERY_S_MIN, le=limits.EVERY_S_MAX)]
_Expression = Annotated[str, Field(max_length=limits.EXPRESSION_CHARS_MAX)]


class _Kind(Message):
    """Messages leave out what is at its default; of these, ``kind`` must stay: it tells them apart."""

    @model_serializer(mode="wrap")
    def _with_kind(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": type(self).model_fields["kind"].default, **write(self)}


class CronTrigger(_Kind):
    """Five fields (minute first) or six (second first), or ``@daily`` and the like, in a time zone of the IANA base."""

    kind: Literal["cron"] = "cron"
    expression: str = Field(max_length=limits.EXPRESSION_CHARS_MAX)
    timezone: str = "UTC"
    missed: Missed = "one"


class EveryTrigger(_Kind):
    """At every whole multiple of ``every_s`` since 1970."""

    kind: Literal["every"] = "every"
    every_s: _Period
    missed: Missed = "one"


class AtTrigger(_Kind):
    """Once."""

    kind: Literal["at"] = "at"
    at_unix_s: float
    missed: Missed = "one"


class EventBatch(Message):
    """Events that start the function together, as a list."""

    max_size: int = Field(100, ge=1, le=limits.EVENT_BATCH_MAX)
    max_wait_s: float = Field(1.0, ge=0, le=limits.EVENT_WAIT_S_MAX)


class RateLimit(Message):
    """At most ``count`` starts in any ``per_s`` seconds, spread evenly once a burst of ``count`` is used up."""

    count: int = Field(ge=1, le=1_000_000)
    per_s: float = Field(gt=0, le=24 * 3600.0)


class SubjectTrigger(_Kind):
    """Events on subjects that match: tokens, ``*`` for one, ``>`` last for one or more.

    ``filter`` and ``key`` are CEL expressions over the event's attributes and ``data``.
    """

    kind: Literal["subject"] = "subject"
    subject: str = Field(max_length=limits.EVENT_SUBJECT_CHARS_MAX)
    filter: _Expression | None = None
    batch: EventBatch | None = None
    debounce_s: float | None = Field(None, gt=0, le=limits.EVENT_WAIT_S_MAX)
    """Only the newest event starts the function, once none came (of its key) for so long."""
    key: _Expression | None = None
    """Events whose ``key`` gives the same run one after the other, in the order in which they were accepted."""
    rate_limit: RateLimit | None = None

    @property
    def shaped(self) -> bool:
        """Whether events wait for each other before they start the function. ``key`` alone is the dispatcher's."""
        return self.batch is not None or self.debounce_s is not None or self.rate_limit is not None


class HttpTrigger(_Kind):
    """``METHOD /u/<tenant><path>``; ``{name}`` in the path is one segment, ``{name:path}``, last, any number."""

    kind: Literal["http"] = "http"
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    path: str = Field(max_length=limits.HTTP_PATH_CHARS_MAX)


ClockTrigger = CronTrigger | EveryTrigger | AtTrigger
Trigger = Annotated[CronTrigger | EveryTrigger | AtTrigger | SubjectTrigger | HttpTrigger, Field(discriminator="kind")]
