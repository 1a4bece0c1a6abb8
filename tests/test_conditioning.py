from __future__ import annotations

import pytest
import torch

from selma.backbones import conditioning
from selma.backbones.loading import load_pipeline
from selma.runtime import unread

TEXTS = ["a red circle", "", "two blue squares on a black background"]
BACKBONES = ["tiny_backbone", "tiny_sdxl", "tiny_sdxl_v"]


@pytest.fixture(scope="module", params=BACKBONES)
def pipe(request):
    return load_pipeline(request.getfixturevalue(request.param))


def test_texts_are_encoded_alike_in_any_batch(pipe):
    few, many = (conditioning.encode_texts(pipe, TEXTS, batch) for batch in (2, 7))
    torch.testing.assert_close(few.states, many.states)
    if few.pooled is not None:
        torch.testing.assert_close(few.pooled, many.pooled)


def test_texts_are_what_the_pipeline_itself_encodes(pipe):
    with torch.no_grad():
        theirs = pipe.encode_prompt(
            TEXTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
        )
    ours = conditioning.encode_texts(pipe, TEXTS)
    torch.testing.assert_close(ours.states[[0, 2]], theirs[0][[0, 2]])
    torch.testing.assert_close(ours.states[1], theirs[1][1])  # no text: the pipeline's own negative prompt
    if len(theirs) == 4:
        torch.testing.assert_close(ours.pooled[[0, 2]], theirs[2][[0, 2]])
        torch.testing.assert_close(ours.pooled[1], theirs[3][1])


def test_a_text_that_is_cut_is_said_once_whatever_the_batches_and_encoders(pipe, capfd):
    texts = [*TEXTS, "b" * 80, *TEXTS]
    with unread.noted():
        noted = conditioning.encode_texts(pipe, texts, batch=2)
        conditioning.encode_texts(pipe, texts)
    assert capfd.readouterr().err == (
        "warning: 1 prompt is longer than the text encoder's 77 tokens; what is beyond is not read "
        f"(first: '{'b' * 40}...')\n"
    )
    assert torch.equal(noted.states, conditioning.encode_texts(pipe, texts, batch=2).states)


def test_only_sdxl_has_pooled_states_and_time_ids(tiny_backbone, tiny_sdxl):
    ids = torch.tensor([conditioning.time_ids((48, 64), (0, 8), (32, 32))])
    plain = conditioning.encode_texts(load_pipeline(tiny_backbone), TEXTS)
    assert set(plain.unet_inputs(ids)) == {"encoder_hidden_states"}
    added = conditioning.encode_texts(load_pipeline(tiny_sdxl), TEXTS)[:1].unet_inputs(ids)
    assert added["added_cond_kwargs"]["time_ids"].tolist() == [[48, 64, 0, 8, 32, 32]]
    assert added["added_cond_kwargs"]["text_embeds"].shape == (1, 20)
    assert added["encoder_hidden_states"].shape == (1, 77, 40)
