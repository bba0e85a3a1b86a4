"""Stands in for Hugging Face's `spaces` on a ZeroGPU Space, on a machine without a GPU; nothing of it is in the app.

As there, a decorated function runs in a forked process: arguments and results are pickled, a generator loses its return
value, of errors but Gradio's own the class alone comes back, and CUDA cannot be initialised outside. Harder than there:
the weights of what is decorated refuse to compute outside, and only what a job asks for is taken from the quota.
"""

import functools
import inspect
import json
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import gradio as gr
import torch

FORK = multiprocessing.get_context("fork")
OUTSIDE = os.getpid()
QUOTA = Path(os.environ["STANDIN_QUOTA"]) if "STANDIN_QUOTA" in os.environ else None  # a file with the seconds left
jobs = []  # of every call: name of the job, seconds asked for, process it ran in


def refuse(*_):
    raise RuntimeError("Low-level CUDA init (`torch._C._cuda_init`) reached.")


assert not torch.cuda.is_initialized(), "CUDA has been initialized before importing the `spaces` package."
torch.cuda._lazy_init = refuse


def GPU(task=None, *, duration=60):
    if task is None:
        return functools.partial(GPU, duration=duration)
    guard(task.__self__._llasa)
    whole = not inspect.isgeneratorfunction(task)

    @functools.wraps(task)
    def by_steps(*args, **kwargs):
        seconds = duration(*args, **kwargs) if callable(duration) else duration
        take(seconds)
        here, there = FORK.Pipe()
        process = FORK.Process(target=work, args=(task, pickle.dumps((args, kwargs)), there), daemon=True)
        process.start()
        there.close()
        jobs.append({"job": args[0], "seconds": seconds, "process": process.pid})
        if "STANDIN_LOG" in os.environ:
            Path(os.environ["STANDIN_LOG"]).write_text(json.dumps(jobs))
        try:
            while True:
                try:
                    kind, value = pickle.loads(here.recv_bytes())
                except EOFError:
                    raise gr.Error("GPU task aborted", title="ZeroGPU worker error") from None
                if kind == "error":
                    raise value
                if kind == "end":
                    return value
                yield value
        finally:
            here.close()
            process.join(10)

    if not whole:
        return by_steps

    @functools.wraps(task)
    def once(*args, **kwargs):
        steps = by_steps(*args, **kwargs)
        try:
            next(steps)
        except StopIteration as end:
            return end.value

    return once


def work(task, packed, there):
    args, kwargs = pickle.loads(packed)
    try:
        result = task(*args, **kwargs)
        if inspect.isgenerator(result):
            for step in result:
                there.send_bytes(pickle.dumps(("step", step)))
            result = None
        there.send_bytes(pickle.dumps(("end", result)))
    except BrokenPipeError:  # nobody listens any more
        pass
    except Exception as error:
        if not isinstance(error, gr.Error):
            error = gr.Error(type(error).__name__, title="ZeroGPU worker error")
        there.send_bytes(pickle.dumps(("error", error)))


def take(seconds):
    """From the quota, in the words of the original."""
    if QUOTA is None:
        return
    left = int(QUOTA.read_text())
    if seconds > left:
        message = (
            f"You have exceeded your free ZeroGPU quota ({seconds}s requested vs. {left}s left). Try again in 3:00. "
        )
        raise gr.Error(message, title="ZeroGPU quota exceeded", print_exception=False)
    QUOTA.write_text(str(left - seconds))
    time.sleep(0.01)


def guard(llasa):
    """Its weights compute in another process or not at all."""
    for owner, name in [
        (llasa.engine.decoder, "prefill"),
        (llasa.engine.decoder, "decode"),
        (llasa.codec, "encode"),
        (llasa.codec, "decode_batch"),
    ]:
        setattr(owner, name, functools.partial(only_inside, getattr(owner, name)))


def only_inside(job, *args, **kwargs):
    if os.getpid() == OUTSIDE:
        refuse()
    return job(*args, **kwargs)
