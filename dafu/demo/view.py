"""What people see of a demonstration: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dafu.demo.deployment import Deployment, Standing
from dafu.demo.run import Demo, Options, Phase
from dafu.demo.tally import Sample, Tally
from dafu.demo.traffic import FRAUD_RATE, HISTORY_DAYS
from dafu.stages.decide import DECISIONS

_STYLES: Final = {"approve": "green", "review": "yellow", "block": "bold red"}
_LINE_SECONDS: Final = 5.0
_RATE_SECONDS: Final = 3.0
_SHOWN_SAMPLES: Final = 5
_SAMPLE_SECONDS: Final = 1.0  # time to read one
_SAMPLES_A_LINE: Final = 2
_RINGS_A_LINE: Final = 1
_SHOWN_REASONS: Final = 3
_PLAIN_WIDTH: Final = 160


def make_view(options: Options) -> LiveView | LineView:
    """The view that fits standard output."""
    console = Console(highlight=False)
    if console.is_terminal:
        return LiveView(console, options)
    return LineView(Console(highlight=False, width=_PLAIN_WIDTH), options)


class LineView:
    """Plain lines, every few seconds."""

    def __init__(self, console: Console, options: Options) -> None:
        self.console = console
        self.options = options
        self._pace = _Pace()
        self._next = 0.0
        self._shown = 0

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def say(self, text: str | Text) -> None:
        """Print something that stays."""
        self.console.print(text, soft_wrap=True)

    def phase(self, demo: Demo) -> None:
        """Announce a phase."""
        for line in _announcement(demo):
            self.say(line)
        self._next = time.monotonic() + _LINE_SECONDS

    def deployed(self, deployment: Deployment) -> None:
        """Announce what the second model does now."""
        self.say(_standing(deployment))

    def update(self, demo: Demo) -> None:
        """Print a line when it is time for one, with samples below it."""
        now = time.monotonic()
        self._pace.add(now, demo.tally.decided)
        if now < self._next:
            return
        self._next = now + _LINE_SECONDS
        tally = demo.tally
        if demo.phase in (Phase.STARTING, Phase.HISTORY):
            self.say(f"  {_history(tally)}")
            return
        self.say(
            f"{demo.live_seconds:5.0f} s  published {tally.live_published:,}, decided "
            f"{tally.live_decided:,} ({_kinds(tally)}), {self._pace.rate:,.0f}/s, "
            f"latency p50 {_ms(tally.seen_by_consumer.quantile(0.5))}, "
            f"p99 {_ms(tally.seen_by_consumer.quantile(0.99))}, "
            f"dead letters {len(tally.dead_letters)}"
        )
        for sample in _choose(tally, _SAMPLES_A_LINE):
            self.say(_sample(sample))
        for line in _rings(demo, _RINGS_A_LINE):
            self.say(line)


class LiveView:
    """A picture that is drawn again and again."""

    def __init__(self, console: Console, options: Options) -> None:
        self.console = console
        self.options = options
        self._pace = _Pace()
        self._samples: deque[Sample] = deque(maxlen=_SHOWN_SAMPLES)
        self._next_sample = 0.0
        self._live = Live(console=console, refresh_per_second=5, transient=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str | Text) -> None:
        """Print something that stays."""
        self.console.print(text, soft_wrap=True)

    def phase(self, demo: Demo) -> None:
        """Announce a phase above the picture."""
        for line in _announcement(demo):
            self.say(line)

    def deployed(self, deployment: Deployment) -> None:
        """Announce what the second model does now, above the picture."""
        self.say(_standing(deployment))

    def update(self, demo: Demo) -> None:
        """Draw the picture anew."""
        now = time.monotonic()
        self._pace.add(now, demo.tally.decided)
        if now >= self._next_sample:
            self._next_sample = now + _SAMPLE_SECONDS
            self._samples.extend(_choose(demo.tally, 1))
            for line in _rings(demo, _RINGS_A_LINE):
                self.say(line)
        self._live.update(self._picture(demo))

    def _picture(self, demo: Demo) -> RenderableType:
        tally = demo.tally
        if demo.phase in (Phase.STARTING, Phase.HISTORY):
            return Panel(_history(tally), title="dafu demo", expand=False)
        figures = Table.grid(padding=(0, 3))
        for _ in range(4):
            figures.add_column(justify="left")
        kinds = [
            Text(f"{kind} {tally.by_decision[kind]:,}", style=_STYLES[kind]) for kind in DECISIONS
        ]
        of = f" of {self.options.seconds:g}" if self.options.seconds is not None else ""
        figures.add_row(f"{demo.live_seconds:.0f}{of} s", *kinds)
        figures.add_row(
            f"published {tally.live_published:,}",
            f"decided {tally.live_decided:,}",
            f"{self._pace.rate:,.0f} decisions/s",
            f"dead letters {len(tally.dead_letters)}",
        )
        seen, told = tally.seen_by_consumer, tally.told_by_worker
        latency = Text(
            f"latency, publish to decision: p50 {_ms(seen.quantile(0.5))}, "
            f"p99 {_ms(seen.quantile(0.99))} at the consumer; p50 {_ms(told.quantile(0.5))}, "
            f"p99 {_ms(told.quantile(0.99))} by the worker's header"
        )
        samples = [_sample(sample) for sample in self._samples]
        for text in samples:
            text.no_wrap, text.overflow = True, "ellipsis"
        below = Text(_console(demo), style="dim")
        title = f"dafu demo: {demo.phase.value}, event time {demo.last_event[:16]}"
        return Panel(Group(figures, latency, Text(), *samples, below), title=title, expand=False)


def _standing(deployment: Deployment) -> str:
    model = f"{deployment.model.name} {deployment.model.version}"
    if deployment.standing is Standing.LOOKING_ON:
        return f"model {model} looks on as a challenger: its risks are noted and decide nothing"
    return f"model {model} is promoted: from a place in each log on, it decides"


class _Pace:
    """Decisions per second over the last few seconds."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def add(self, now: float, decided: int) -> None:
        """Take a reading."""
        self._points.append((now, decided))
        while now - self._points[0][0] > _RATE_SECONDS:
            self._points.popleft()

    @property
    def rate(self) -> float:
        """Per second."""
        (begin, first), (end, last) = self._points[0], self._points[-1]
        return (last - first) / (end - begin) if end > begin else 0.0


def _console(demo: Demo) -> str:
    """Where to look with a browser, and how to get in."""
    return f"console: {demo.web}/console/   key: {demo.key}"


def _announcement(demo: Demo) -> list[str]:
    options = demo.options
    if demo.phase is Phase.STARTING:
        return [
            f"broker on {demo.bootstrap}, in memory; worker: faust -A dafu.app worker -l info",
            f"its log: {demo.log_file}   its state: {demo.web}/v1/status",
            f"once the worker is ready, {_console(demo)}",
            f"simulated: {options.users:,} card holders at {options.merchants:,} merchants, "
            f"{FRAUD_RATE:.0%} fraud (far more than in life); labels are kept from the worker",
            f"publishing {HISTORY_DAYS} days of history while the worker starts; the first start "
            "compiles the kernels, which takes up to a minute",
        ]
    if demo.phase is Phase.HISTORY:
        return ["the worker decides; first the history"]
    if demo.phase is Phase.LIVE:
        rate = "as fast as it decides" if options.rate == float("inf") else f"{options.rate:,.0f}/s"
        end = "until Ctrl-C" if options.seconds is None else f"for {options.seconds:g} s"
        per_day = options.users * 1.6
        faster = ""
        if options.rate < float("inf"):
            faster = f", about {options.rate / per_day * 86_400:,.0f} times faster than in life"
        return [
            f"history decided; now traffic, {rate}, {end}: event time runs with it{faster}",
            _console(demo),
            f"to look in from another terminal: DAFU_BROKER={demo.bootstrap} "
            "DAFU_TOPIC_PREFIX=demo- dafu decisions --follow --only review,block",
        ]
    if demo.phase is Phase.DRAINING:
        return ["no more traffic; waiting for the last decisions"]
    return ["stopping the worker and the broker"]


def summary(demo: Demo) -> list[RenderableType]:
    """How it went, as lines and a table."""
    tally = demo.tally
    live, seconds = tally.live_published, demo.live_seconds
    lines: list[RenderableType] = [
        f"published {tally.published:,} transactions ({tally.published - live:,} of history, "
        f"{live:,} in {seconds:.1f} s, {live / max(seconds, 1e-9):,.0f}/s)",
        f"decided {tally.decided:,}, each once; repeats {tally.repeats:,}, "
        f"dead letters {len(tally.dead_letters):,}",
    ]
    if tally.live_decided:
        seen, told = tally.seen_by_consumer, tally.told_by_worker
        lines += [
            f"event time {demo.first_event} to {demo.last_event}",
            f"latency from publishing to the decision at a consumer: p50 "
            f"{_ms(seen.quantile(0.5))}, p99 {_ms(seen.quantile(0.99))}; by the worker's header: "
            f"p50 {_ms(told.quantile(0.5))}, p99 {_ms(told.quantile(0.99))}",
            *_models(tally),
            _truth(tally),
        ]
    if found := demo.rings.latest:
        at_merchants = sum(ring.kind == "merchant" for ring in found.values())
        lines.append(
            f"rings told of: {len(found) - at_merchants:,} of accounts, {at_merchants:,} bursts "
            "at merchants"
        )
    if demo.picture is not None and (ring := demo.rings.largest()) is not None:
        lines.append(f"ring {ring.ring_id} with {ring.size} members, as a picture: {demo.picture}")
    if not demo.complete:
        lines.append("stopped before all that was published had been decided")
    if demo.options.keep:
        lines.append(f"kept {demo.directory}")
    return lines


def _models(tally: Tally) -> list[str]:
    """Which models decided, and what those made of it that only looked on."""
    lines = [
        f"{count:,} decided by {name} (model {version})"
        for (name, version), count in tally.by_model.items()
    ]
    for name, seen in tally.looking_on.items():
        theirs = sum(n for (said, _, _), n in seen.items() if said)
        right = sum(n for (said, _, fraud), n in seen.items() if said and fraud)
        decided = sum(n for (_, said, _), n in seen.items() if said)
        decided_right = sum(n for (_, said, fraud), n in seen.items() if said and fraud)
        lines.append(
            f"{name} looked on for {seen.total():,} of them: it would have called {theirs:,} "
            f"fraud, {right:,} rightly; the decisions called {decided:,} fraud, "
            f"{decided_right:,} rightly"
        )
    return lines


def _truth(tally: Tally) -> Table:
    """Decisions against labels, after the history."""
    scenarios = sorted({s for _, s in tally.outcomes if s is not None})
    table = Table(
        title="decisions against the labels that the worker never saw", title_justify="left"
    )
    table.add_column("decision")
    for column in ("transactions", "fraud", "share of fraud", *scenarios):
        table.add_column(column, justify="right")
    for kind in DECISIONS:
        found = {s: n for (k, s), n in tally.outcomes.items() if k == kind}
        total = sum(found.values())
        fraud = total - found.get(None, 0)
        share = f"{fraud / total:.1%}" if total else ""
        by_scenario = [f"{found.get(s, 0):,}" for s in scenarios]
        table.add_row(Text(kind, _STYLES[kind]), f"{total:,}", f"{fraud:,}", share, *by_scenario)
    return table


def _history(tally: Tally) -> str:
    if not tally.decided:
        return f"history: {tally.published:,} published; waiting for the worker's first decision"
    return f"history: {tally.decided:,} of {tally.published:,} decided"


def _kinds(tally: Tally) -> str:
    return ", ".join(f"{kind} {tally.by_decision[kind]:,}" for kind in DECISIONS)


def _ms(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _rings(demo: Demo, count: int) -> list[Text]:
    """Rings that have not been shown, the surest first; the others are dropped."""
    fresh = sorted(demo.rings.news, key=lambda ring: ring.score, reverse=True)
    demo.rings.news.clear()
    lines = []
    for ring in fresh[:count]:
        place = "" if ring.merchant_id is None else f" at {ring.merchant_id}"
        text = Text.assemble(
            ("  ring  ", "bold magenta"),
            f"{ring.score:.2f}  {ring.ring_id}{place}: {ring.size} members, "
            f"{ring.transactions:,} transactions of {ring.amount:,.2f}",
        )
        for reason in ring.reasons[:_SHOWN_REASONS]:
            text.append(f"\n      {reason}", "dim")
        lines.append(text)
    return lines


def _choose(tally: Tally, count: int) -> list[Sample]:
    """Samples that have not been shown, blocks first; the others are dropped."""
    fresh = sorted(tally.samples, key=lambda s: s.decision.risk_score, reverse=True)
    tally.samples.clear()
    return fresh[:count]


def _sample(sample: Sample) -> Text:
    d = sample.decision
    truth = "label: genuine" if sample.scenario is None else f"label: fraud, {sample.scenario}"
    text = Text.assemble(
        (f"  {d.decision:<6}", _STYLES[d.decision]),
        f" {d.risk_score:.2f}  {d.transaction_id}  {d.user_id} at {d.merchant_id}",
        (f"  {d.timestamp}  {truth}", "dim"),
    )
    for reason in d.reasons[:_SHOWN_REASONS]:
        text.append(f"\n      {reason.source}: {reason.text}", "dim")
    if len(d.reasons) > _SHOWN_REASONS:
        text.append(f"\n      and {len(d.reasons) - _SHOWN_REASONS} more", "dim")
    return text
