"""Parts of a batch side by side on a CPU: the same numbers, whatever the number of cores."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from selma.backbones.ahead import Stopped, ahead, plan
from selma.backbones.cpu import Linear, linear, speed_up
from selma.backbones.loading import load_pipeline
from selma.experts.gradients import gradients
from selma.lora.adapter import add_lora, lora_parameters


@contextmanager
def cores(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@given(
    n=st.integers(1, 4),
    tokens=st.integers(1, 5),
    wide=st.integers(1, 9),
    out=st.integers(1, 9),
    bias=st.booleans(),
    across=st.booleans(),
)
def test_a_linear_layer_as_a_convolution_is_the_linear_layer(n, tokens, wide, out, bias, across):
    random = torch.Generator().manual_seed(n + 7 * tokens)
    x = torch.randn(n, tokens, wide, generator=random)
    if across:  # not contiguous, as attention's outputs are
        x = torch.randn(n, wide, tokens, generator=random).transpose(1, 2)
    weight, added = torch.randn(out, wide, generator=random), torch.randn(out, generator=random)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, added)][: 3 if bias else 2]
    ours, plain = linear(*leaves), functional.linear(*leaves)
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(
        torch.autograd.grad(ours.square().sum(), leaves),
        torch.autograd.grad(plain.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 4, 5)])
def test_other_shapes_are_pytorchs(shape):
    layer = nn.Linear(5, 2)
    assert linear(torch.ones(shape), layer.weight, layer.bias).shape == (*shape[:-1], 2)


def test_only_float32_on_a_cpu_is_sped_up_and_names_stay():
    part, half = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(2, 2, 1)), nn.Sequential(nn.Linear(4, 4)).bfloat16()
    names = list(part.state_dict())
    speed_up(part, half)
    assert type(part[0]) is Linear and type(half[0]) is nn.Linear
    assert part[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert list(part.state_dict()) == names


@given(
    items=st.integers(1, 500), at_once=st.integers(1, 120), part=st.integers(0, 40), threads=st.integers(1, 9)
)
def test_a_plan_holds_everything_and_no_more_at_once_than_allowed(items, at_once, part, threads):
    with cores(threads):
        found = plan(items, at_once, part, "cpu")
        whole = plan(items, at_once, part, "cuda")
    with cores(1):
        assert plan(items, at_once, part, "cpu").size == found.size, "the same parts on any number of cores"
    parts = math.ceil(items / found.size)
    assert 1 <= found.size <= max(1, min(part, at_once)) and found.size * parts - items < parts  # even
    assert found.workers * found.size <= max(at_once, found.size)
    assert found.workers * found.threads <= threads
    assert whole.workers == 1 and whole.size <= at_once


def test_results_come_in_order_and_an_error_in_its_turn():
    def job(i):
        def work(stop):
            if i == 5:
                raise ValueError("five")
            return i

        return work

    got = []
    with pytest.raises(ValueError, match="five"):
        for result in ahead((job(i) for i in range(9)), workers=3, threads=1):
            got.append(result)
    assert got == [0, 1, 2, 3, 4]


def test_who_stops_asking_stops_the_work():
    before, started, ended = torch.get_num_threads(), [], []

    def job(i):
        def work(stop):
            started.append(i)
            if i:
                assert stop.wait(60)
                ended.append(i)
                raise Stopped
            return i

        return work

    running = ahead((job(i) for i in range(50)), workers=2, threads=1)
    assert next(running) == 0
    running.close()
    assert sorted(started[1:]) == sorted(ended) and len(started) < 5
    assert torch.get_num_threads() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("computing")]


class Rows:
    """A batch of numbers."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, parts: int) -> Iterator[Rows]:
        return map(Rows, self.rows.split(-(-len(self) // parts)))


@pytest.mark.parametrize("accumulate", [1, 3, 40])
def test_a_gradient_in_parts_is_the_batchs_and_adds_up_in_one_order(accumulate):
    random = torch.Generator().manual_seed(0)
    rows, start = torch.randn(40, 6, generator=random), torch.randn(6, 5, generator=random)
    found, most, at_work, lock = {}, {}, [], threading.Lock()
    for number in (1, 2, 3):
        weight = start.clone().requires_grad_()
        idle = torch.zeros(1, requires_grad=True)  # a parameter that the loss does not use
        most[number] = 0

        def loss(part, weight=weight, number=number):
            with lock:
                at_work.append(part)
                most[number] = max(most[number], sum(map(len, at_work)))
            value = (part.rows @ weight).tanh().square().mean()
            with lock:
                at_work.remove(part)
            return value

        settings = {"batch": 40, "accumulate": accumulate, "pixels": 64}
        with cores(number), gradients(loss, [weight, idle], **settings) as parts:
            value = parts.of(Rows(rows))
        found[number] = (value, weight.grad)
        assert idle.grad is None
    for value, gradient in found.values():
        assert torch.equal(value, found[1][0]) and torch.equal(gradient, found[1][1])
    assert max(most.values()) <= math.ceil(40 / accumulate)
    whole = start.clone().requires_grad_()
    (rows @ whole).tanh().square().mean().backward()
    torch.testing.assert_close(found[1][1], whole.grad)


def test_an_error_in_a_part_is_the_callers():
    weight = torch.ones(3, requires_grad=True)

    def loss(part):
        raise MemoryError("not enough memory")

    settings = {"batch": 40, "accumulate": 1, "pixels": 64}
    with cores(2), gradients(loss, [weight], **settings) as parts, pytest.raises(MemoryError):
        parts.of(Rows(torch.ones(40, 3)))


@pytest.mark.parametrize("rank", [1, 64])  # beside the weights, and merged into them
@pytest.mark.parametrize("backbone", ["tiny_backbone", "tiny_sdxl"])
def test_our_lora_computes_what_pefts_does(request, backbone, rank):
    """The same predictions and gradients as peft's own forward."""
    pipe = load_pipeline(request.getfixturevalue(backbone))
    unet, random = pipe.unet, torch.Generator().manual_seed(3)
    add_lora(unet, rank, 2.0 * rank, ["to_q", "to_k", "to_v", "to_out.0"], seed=0)
    for name, parameter in lora_parameters(unet).items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=random) / 10
    ours = [layer for layer in unet.modules() if "forward" in vars(layer)]
    assert len(ours) == len(lora_parameters(unet)) // 2
    inputs = {"encoder_hidden_states": torch.randn(3, 77, unet.config.cross_attention_dim, generator=random)}
    if backbone == "tiny_sdxl":
        width = pipe.text_encoder_2.config.projection_dim
        added = {"text_embeds": torch.randn(3, width, generator=random), "time_ids": torch.ones(3, 6)}
        inputs["added_cond_kwargs"] = added
    noisy = torch.randn(3, 4, 8, 8, generator=random)

    def run():
        out = unet(noisy, 500, **inputs, return_dict=False)[0]
        return out, torch.autograd.grad(out.square().sum(), list(lora_parameters(unet).values()))

    mine, my_gradients = run()
    for layer in ours:
        del layer.forward
    theirs, their_gradients = run()
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    for one, other in zip(my_gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * other.abs().max().item())
