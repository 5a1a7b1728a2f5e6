"""The worker's app with fault points: it can kill or stop itself exactly where it hurts.

    faust -A tests.chaos.worker worker

The product knows nothing of this: everything here wraps its methods by name, and fails at the
import if a name is gone. What it does is asked for in its environment.

* Faults are ordered through the directory CHAOS_DIR, see `tests.chaos.faults`.
* CHAOS_SLOW=share,seconds (with CHAOS_SEED) holds up that share of all acknowledgements, each by
  a random time up to so many seconds; CHAOS_BATCH_BYTES makes the producer's batches small, so
  that one write is many batches and the producer's queue is full.
* CHAOS_BREAK breaks a promise of the product on purpose, see
  `tests.chaos.faults.BREAKS`: who checks it must notice.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from dafu.agents.shell import StageAgent
from dafu.stages.identifiers import IdentifierStage
from dafu.stages.merchants import MerchantStage
from dafu.stages.rings import RingStage
from dafu.stages.users import UserStage
from dafu.streaming.produce import Dispatcher, Outcome, Parcel
from dafu.streaming.transport import Consumer
from dafu.tables.rocksdb import RocksDBStore
from dafu.tables.store import PartitionedStore
from dafu.tables.table import PackedTable
from dafu.tables.working_set import SourceMarks, WorkingSet
from tests.chaos.faults import RECOVERING, FaultInjector
from tests.integration.brisk import app

_BREAK_DELAY: Final = 0.5  # longer than the commit interval of chaos runs

injector = FaultInjector(Path(os.environ["CHAOS_DIR"]))
_chunks: ContextVar[Any] = ContextVar("chunks")
"""The chunks that the running task works on."""


def _where() -> str:
    places = (f"{chunk.topic}[{chunk.partition}]" for chunk in _chunks.get(()))
    return ", ".join(dict.fromkeys(places))


def _wrap(cls: type, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
    """Put something around a method of a class or of the one that it inherits it from."""
    owner = next((c for c in cls.__mro__ if name in c.__dict__), None)
    if owner is None:
        raise AttributeError(f"{cls.__name__} has no {name} any more: mend tests/chaos/worker.py")
    setattr(owner, name, make(owner.__dict__[name]))


def _around_process(process: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Any]:
    async def wrapper(self: Any, chunks: Any) -> None:
        _chunks.set(chunks)
        injector.reached("read", _where())
        await process(self, chunks)

    return wrapper


def _around_run(run: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        output = run(*args, **kwargs)
        if _chunks.get(()):  # the warm-up runs the stages as well
            injector.reached("computed", _where())
        return output

    return wrapper


def _around_commit(commit: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> None:
        injector.reached("outputs-acked", _where())
        await commit(*args, **kwargs)
        injector.reached("stored", _where())

    return wrapper


def _around_apply(apply: Callable[..., None]) -> Callable[..., Any]:
    def wrapper(self: Any, number: int, *args: Any, **kwargs: Any) -> None:
        if _chunks.get(()):
            injector.reached("changelog-acked", _where())
        else:
            injector.reached(RECOVERING, f"{self.table_name}[{number}]")
        apply(self, number, *args, **kwargs)

    return wrapper


def _around_ack(ack: Callable[..., bool]) -> Callable[..., Any]:
    def wrapper(self: Any, message: Any) -> bool:
        counted = ack(self, message)
        injector.reached("offset-acked", f"{message.topic}[{message.partition}]")
        return counted

    return wrapper


def _around_commit_offsets(commit: Callable[..., Coroutine[Any, Any, bool]]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> bool:
        done = await commit(*args, **kwargs)
        if done:
            injector.reached("committed", "")
        return done

    return wrapper


def _around_put(put: Callable[[Any, Parcel], None]) -> Callable[..., Any]:
    share, _, longest = os.environ.get("CHAOS_SLOW", "0,0").partition(",")
    choose = random.Random(os.environ.get("CHAOS_SEED"))

    def wrapper(self: Any, parcel: Parcel) -> None:
        if parcel.deadline is not None:  # sent again
            return put(self, parcel)
        where = f"{parcel.where.topic}[{parcel.where.partition}]"
        logged = parcel.where.topic.endswith("-changelog")
        if logged:
            injector.reached("changelog-sending", where)
        settle = parcel.settle

        def settled(outcome: Outcome) -> None:
            if isinstance(outcome, int):
                injector.reached("changelog-part-acked" if logged else "output-acked", where)
            settle(outcome)

        def settled_slowly(outcome: Outcome) -> None:
            if choose.random() < float(share):
                delay = choose.random() * float(longest)
                asyncio.get_running_loop().call_later(delay, settled, outcome)
            else:
                settled(outcome)

        parcel.settle = settled_slowly
        return put(self, parcel)

    return wrapper


def _acknowledge_before_the_changelog() -> None:
    messages: dict[int, Any] = {}

    def remembering(to_message: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            message = to_message(*args, **kwargs)
            messages[id(message.value)] = message
            return message

        return wrapper

    def hasty(commit: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Any]:
        async def wrapper(self: Any, sender: Any, changes: Any, claims: Any) -> None:
            for chunk in _chunks.get():
                if chunk.partition in changes:
                    app.consumer.ack(messages.pop(id(chunk)))
            await asyncio.sleep(_BREAK_DELAY)
            await commit(self, sender, changes, claims)

        return wrapper

    _wrap(Consumer, "_to_batch_message", remembering)
    _wrap(PackedTable, "commit_batches", hasty)


def _forget_fences() -> None:
    def unfenced_heads(load: Callable[..., None]) -> Callable[..., Any]:
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
            load(self, *args, **kwargs)
            self.heads["fence"] = -1

        return wrapper

    def unfenced_marks(load: classmethod[Any, Any, Any]) -> Any:
        def wrapper(cls: type[SourceMarks], *args: Any, **kwargs: Any) -> SourceMarks:
            marks: SourceMarks = load.__func__(cls, *args, **kwargs)
            marks.fence = -1
            marks.marks[:] = -1
            return marks

        return classmethod(wrapper)

    _wrap(WorkingSet, "_load_heads", unfenced_heads)
    _wrap(SourceMarks, "load", unfenced_marks)


if what := os.environ.get("CHAOS_BREAK"):
    {"ack-before-changelog": _acknowledge_before_the_changelog, "no-fence": _forget_fences}[what]()

_wrap(StageAgent, "process", _around_process)
for stage in (UserStage, MerchantStage, IdentifierStage, RingStage):
    _wrap(stage, "run", _around_run)
_wrap(PackedTable, "commit_batches", _around_commit)
_wrap(PartitionedStore, "apply", _around_apply)
if "apply" in RocksDBStore.__dict__:
    _wrap(RocksDBStore, "apply", _around_apply)
_wrap(Consumer, "ack", _around_ack)
_wrap(Consumer, "commit", _around_commit_offsets)
_wrap(Dispatcher, "put", _around_put)

if size := os.environ.get("CHAOS_BATCH_BYTES"):
    app.conf.producer_max_batch_size = int(size)

__all__ = ["app"]
