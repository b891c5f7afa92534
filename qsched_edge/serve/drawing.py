"""Draws what is asked, one request at a time; requests wait in line, and one that nobody waits for ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from qsched_runtime import Coefficients, Sampler, Step, png_bytes

from qsched_edge.bundle.write import stock_table
from qsched_edge.serve.asked import Asked
from qsched_edge.serve.errors import ApiError


@dataclass(frozen=True)
class Waiting:
    """So many requests are drawn before this one."""

    ahead: int


@dataclass(frozen=True)
class Stepped:
    """Step `i` of `steps` is done; `pictures` are PNGs of what it leads to, or none where nobody asked for them."""

    i: int
    steps: int
    pictures: tuple[bytes, ...]


@dataclass(frozen=True)
class Drawn:
    """The finished pictures as PNGs."""

    pictures: tuple[bytes, ...]


Event = Waiting | Stepped | Drawn


class CancelledError(Exception):
    """Nobody waits for this picture any more."""


@dataclass(eq=False)
class Job:
    """One request in the line: what is asked, and where its events go."""

    asked: Asked
    loop: asyncio.AbstractEventLoop
    inbox: asyncio.Queue[Event | BaseException] = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    future: Future[None] | None = None

    def tell(self, event: Event | BaseException) -> None:
        """From the thread that draws."""
        self.loop.call_soon_threadsafe(self.inbox.put_nowait, event)

    def cancel(self) -> None:
        """Leave the line, or end at the next step."""
        self.cancelled.set()
        if self.future:
            self.future.cancel()

    def check(self) -> None:
        """CancelledError once nobody waits for it."""
        if self.cancelled.is_set():
            raise CancelledError("nobody waits for this picture any more")

    async def events(self) -> AsyncIterator[Event]:
        """Until the pictures are drawn; raises what drawing raised. A reader that leaves cancels the job."""
        try:
            while True:
                event = await self.inbox.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Drawn):
                    return
        finally:
            self.cancel()


class Line:
    """The requests that wait for one sampler; `length` may wait while one is drawn."""

    def __init__(self, sampler: Sampler, length: int) -> None:
        self.samplers: Mapping[bool, Sampler] = {False: sampler, True: without_calibration(sampler)}
        self.length = length
        self.jobs: list[Job] = []
        self.thread = ThreadPoolExecutor(1, "drawing")

    def join(self, asked: Asked) -> Job:
        """Called in the event loop; ApiError 429 where the line is full."""
        if len(self.jobs) > self.length:
            raise ApiError(429, f"{len(self.jobs)} requests are in line: try again later", code="queue_full")
        job = Job(asked, asyncio.get_running_loop())
        if self.jobs:
            job.inbox.put_nowait(Waiting(len(self.jobs)))
        self.jobs.append(job)
        job.future = self.thread.submit(self.draw, job)
        job.future.add_done_callback(lambda _: job.loop.call_soon_threadsafe(self.leave, job))
        return job

    def leave(self, job: Job) -> None:
        """In the event loop."""
        if job in self.jobs:
            self.jobs.remove(job)

    def draw(self, job: Job) -> None:
        """In the drawing thread. Whatever a library raises reaches the request, which answers with it."""
        found: Event | BaseException
        try:
            job.check()
            found = Drawn(drawn(self.samplers[job.asked.stock], job))
        except Exception as error:
            found = error
        job.loop.call_soon_threadsafe(self.leave, job)  # before the answer: who asks again at once finds it gone
        job.tell(found)

    def close(self) -> None:
        """End what is drawn at its next step, and forget who waits."""
        for job in self.jobs:
            job.cancel()
        self.thread.shutdown(wait=True, cancel_futures=True)


def drawn(sampler: Sampler, job: Job) -> tuple[bytes, ...]:
    asked = job.asked

    def stepped(step: Step) -> None:
        job.check()
        shown = asked.steps - 1 - asked.previews <= step.i < asked.steps - 1
        previews = sampler.preview(step) if shown else ()
        job.tell(Stepped(step.i, asked.steps, tuple(map(png_bytes, previews))))

    output = sampler(
        [asked.prompt] * len(asked.seeds), seed=asked.seeds, num_inference_steps=asked.steps,
        guidance_scale=asked.guidance_scale, negative_prompt=asked.negative_prompt, height=asked.height,
        width=asked.width, callback_on_step_end=stepped,
    )  # fmt: skip
    return tuple(map(png_bytes, output.images))


def without_calibration(sampler: Sampler) -> Sampler:
    """The same networks with the stock scheduler's tables and coefficients of one."""
    manifest = sampler.manifest
    tables = {steps: stock_table(manifest, steps) for steps in manifest.schedules}
    ones = {steps: Coefficients.identity(steps) for steps in tables}
    stock = Sampler(replace(manifest, schedules=tables, coefficients=ones), sampler.graphs, sampler.tokenizers)
    stock.tile = sampler.tile
    return stock
