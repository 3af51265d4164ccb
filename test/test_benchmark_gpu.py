"""The GPU benchmark without a GPU: shapes, the counted work, the jobs, and the table of results."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmark"))

import figures
import gpu
import gpu_parts
import gpu_shapes


@pytest.mark.parametrize("name", gpu_shapes.SHAPES)
def test_a_checkpoint_without_weights_has_as_many_parameters_as_counted(tmp_path: Path, name: str) -> None:
    """transformers builds the model from the config.json that vLLM loads, on the meta device, which uses no memory."""
    import torch

    shape = gpu_shapes.SHAPES[name]
    folder = gpu_shapes.write_checkpoint(tmp_path, shape, "bfloat16")
    model = gpu_shapes.new_model(folder, "meta")
    assert {part.dtype for part in model.parameters()} == {torch.bfloat16}
    assert model.config.model_type == shape.model_type
    assert sum(part.numel() for part in model.parameters()) == shape.parameters
    layers = model.model.language_model.layers
    linear = sum(part.weight.numel() for part in layers.modules() if isinstance(part, torch.nn.Linear))
    assert linear == shape.linear_parameters
    eye = model.config.vision_config
    assert eye.patch_size * eye.spatial_merge_size == shape.vision.cell
    if shape.model_type == "qwen3_vl":
        assert len(eye.deepstack_visual_indexes) == shape.vision.deepstack
        return
    every = shape.vision.depth // shape.vision.full_attention
    assert eye.fullatt_block_indexes == list(range(every - 1, shape.vision.depth, every))


def test_the_8b_is_like_the_defaults_of_its_architecture(tmp_path: Path) -> None:
    """transformers' default image encoder of Qwen3-VL is that of the 8B, except for the width of the language model."""
    from transformers import AutoConfig, Qwen3VLConfig

    written = AutoConfig.from_pretrained(gpu_shapes.write_checkpoint(tmp_path, gpu_shapes.SHAPES["8b"], "bfloat16"))
    ours, default = (config.vision_config.to_dict() for config in (written, Qwen3VLConfig()))
    for name in ("depth", "hidden_size", "intermediate_size", "num_heads", "patch_size", "num_position_embeddings"):
        assert ours[name] == default[name]
    assert list(ours["deepstack_visual_indexes"]) == list(default["deepstack_visual_indexes"])
    assert written.text_config.rope_parameters["mrope_section"] == [24, 20, 20]


@pytest.mark.parametrize("name", [name for name in gpu_shapes.SHAPES if name.startswith("tiny")])
def test_images_have_the_cells_of_the_model(tmp_path: Path, name: str) -> None:
    """A processor that is made of the folder turns an image of fitting size into patches without resizing it."""
    import torch
    from transformers import AutoProcessor

    shape = gpu_shapes.SHAPES[name]
    folder = gpu_shapes.write_checkpoint(tmp_path, shape, "float32")
    width, height = (shape.vision.cell * cells for cells in gpu_parts._FITTED_CELLS)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    inputs = AutoProcessor.from_pretrained(folder)(text=["<|image_pad|>"], images=[image], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, height // shape.vision.patch, width // shape.vision.patch]]
    assert (inputs["input_ids"] == gpu_shapes.new_model(folder, "meta").config.image_token_id).sum() == 23 * 17


@pytest.mark.parametrize("name", ["tiny", "tiny-2.5"])
def test_written_weights_answer_each_token_by_itself(tmp_path: Path, name: str) -> None:
    """In both precisions, another order of additions changes no token. The margin is small enough to detect errors."""
    import torch
    from transformers import AutoModelForImageTextToText

    shape = replace(gpu_shapes.SHAPES[name], layers=4, hidden=512, intermediate=2048, heads=16)
    folder = gpu_shapes.write_checkpoint(tmp_path, shape, "bfloat16")
    gpu_shapes.write_weights(folder, "cpu")
    tokens = torch.arange(100, 1500, 7)[None]
    probabilities = {}
    for dtype in (torch.bfloat16, torch.float32):
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
        with torch.no_grad():
            logits = model(input_ids=tokens).logits.float()
        assert torch.equal(logits.argmax(-1), tokens)
        probabilities[dtype] = logits.log_softmax(-1).gather(-1, tokens[..., None])
    exact, rounded = probabilities[torch.float32], probabilities[torch.bfloat16]
    assert (exact < 0.0).all()
    assert (exact - rounded).abs().max() < 0.1


def test_bytes_of_a_token_by_hand() -> None:
    """The 7B has 6.5e9 weights in its layers and 0.54e9 in its output layer, 2 bytes each, and 56 KiB for each earlier token."""
    shape = gpu_shapes.SHAPES["7b"]
    assert shape.linear_parameters == 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    assert gpu_shapes.decode_bytes(shape, 0) == 2 * (shape.linear_parameters + 152064 * 3584)
    assert gpu_shapes.decode_bytes(shape, 1000) - gpu_shapes.decode_bytes(shape, 0) == 57_344_000


def test_operations_of_a_prompt_by_another_count() -> None:
    """The reference is PyTorch's own counter on the same modules, for a text without an image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen2ForCausalLM
    from transformers.models.qwen2 import Qwen2Config

    shape, tokens = gpu_shapes.SHAPES["tiny"], 64
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        attn_implementation="eager",
    )
    model = Qwen2ForCausalLM(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, tokens, dtype=torch.long), logits_to_keep=1)
    # The counter counts all pairs of tokens. Half of them are used.
    pairs = 2 * shape.layers * shape.heads * shape.head_dim * tokens * tokens
    # Older versions of transformers compute the angles of positions by a matrix product. Newer versions do not.
    angles = tokens * shape.head_dim
    assert counter.get_total_flops() - gpu_shapes.prefill_flops(shape, tokens, 0) - pairs in (0, angles)


def test_operations_of_an_image_by_another_count() -> None:
    """The reference is PyTorch's own counter on Qwen3-VL's image encoder, with its mergers for DeepStack."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen3VLVisionModel
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

    shape = gpu_shapes.SHAPES["tiny-2.5"]
    shape = replace(shape, vision=replace(shape.vision, depth=24, deepstack=3))
    config = Qwen3VLVisionConfig(**gpu_shapes._vision_config(shape), attn_implementation="eager")
    model, (rows, columns) = Qwen3VLVisionModel(config), (8, 12)
    patches, numbers = rows * columns, 3 * 2 * shape.vision.patch**2
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(patches, numbers), grid_thw=torch.tensor([[1, rows, columns]]))
    embedding = 2 * patches * numbers * shape.vision.hidden
    ours = gpu_shapes.prefill_flops(shape, 0, patches) - 2 * shape.head_parameters
    assert counter.get_total_flops() - embedding == ours


def test_each_engine_is_started_once_for_all_parts() -> None:
    jobs = gpu.plan(gpu.DEFAULT_PARTS, ["3b", "7b"])
    assert jobs[0].kind == "chip"
    names = [(job.kind, job.model) for job in jobs[1:]]
    assert len(set(names)) == len(names) == 12
    assert gpu.Job("native", "7b", ("speed", "grid")) in jobs
    assert gpu.plan(["e"], ["3b"]) == [gpu.Job("native", "3b", ("grid",))]
    # Later engines use the selected operators.
    kinds = [job.kind for job in gpu.plan(["b", "tune"], ["7b"])]
    assert kinds == ["tune", "native", "flagos-auto", "flagos-on"]
    assert [job.kind for job in gpu.plan(["scale"], ["32b"])] == ["native", "tensor", "pipeline", "data"]
    assert [job.kind for job in gpu.plan(["b", "d"], ["7b"], ["eager", "flagos-on"])] == ["flagos-on", "eager"]
    assert gpu.plan(["answers"], ["3b"]) == [gpu.Job("answers", "3b", ("answers",))]
    assert gpu.plan(["together"], ["3b"]) == [gpu.Job("together", "3b", ("speed",))]
    turns = gpu.plan(["b"], ["7b"], ["native", "flagos-auto"], turns=2)
    assert [(job.kind, job.turn) for job in turns] == [("native", 0), ("flagos-auto", 0), ("flagos-auto", 1), ("native", 1)]
    measured = {kind for kinds in gpu.KINDS.values() for job in kinds for kind in gpu.TOGETHER.get(job, (job,))}
    assert measured == {*gpu_parts.KINDS, "official"}


def test_engines_on_one_gpu_are_measured_in_turn() -> None:
    order: list[str] = []

    async def measure(name: Any) -> int:
        order.append(name)
        return len(order)

    benches: Any = ["a", "b"]
    assert asyncio.run(gpu_parts.alternately(benches, 3, measure)) == [[1, 4, 5], [2, 3, 6]]
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_what_cannot_be_run_has_a_reason(tmp_path: Path) -> None:
    options = gpu.read_arguments(
        ["--only", "b", "scale", "--models", "tiny", "--device", "cpu", "--minutes", "0", "--output", str(tmp_path / "out.jsonl")]
    )
    gpu.run(options)
    reasons = {line["kind"]: line["reason"] for line in gpu.Results(options.output).failed}
    assert set(reasons) == {"native", "flagos-auto", "flagos-on", *gpu.SCALED}
    assert reasons["tensor"] == "it needs two GPUs"
    assert reasons["native"] == "no time was left"
    assert reasons["flagos-on"] != ""


def line(kind: str, what: str, values: list[float], **more: Any) -> str:
    return json.dumps({"kind": kind, "model": "7b", "what": what, "values": values, **more})


def test_the_turns_of_an_engine_are_one_measurement(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text(
        "\n".join(
            [
                line("chip", "chip", [], bytes_per_s=3e12, flops_per_s=7e14, chip="NVIDIA H100 80GB HBM3"),
                line("native", "decode step", [9.0], context=1300, turn=0),
                line("native", "decode step", [0.006], context=1300, turn=0),
                line("flagos-auto", "decode step", [0.005], context=1300, turn=0),
                line("flagos-auto", "decode step", [0.005], context=1300, turn=1),
                line("native", "decode step", [0.006], context=1300, turn=1),
            ]
        )
    )
    made = {found.name: found for found in gpu.comparisons(gpu.Results(file), ["7b"])}
    step = made["7b decode step, flagos-auto / native"]
    assert (round(step.ratio, 3), step.count, step.goal, step.reached) == (1.2, 2, figures.Goal(1.1, at_least=True), True)
    assert made["7b decode / bandwidth, flagos-auto"].count == 2


def test_answers_are_compared_up_to_the_first_token_that_differs(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text(
        "\n".join(
            [
                line(
                    "native-held", "answers", [], at_once=1, tokens=[[1, 2], [3, 4]], probabilities=[[-0.5, -0.5], [-0.1, -0.2]]
                ),
                line("auto-held", "answers", [], at_once=1, tokens=[[1, 2], [3, 5]], probabilities=[[-0.5, -0.25], [-0.1, -9.0]]),
            ]
        )
    )
    rows = gpu.answers_table(gpu.Results(file), ["7b"]).splitlines()
    assert [cell.strip() for cell in rows[2].split("|")[1:-1]] == ["7b", "1", "1 of 2", "0.25", "0.0625"]


def test_the_table_is_made_of_whatever_is_there(tmp_path: Path) -> None:
    shape = gpu_shapes.SHAPES["7b"]
    moved = gpu_shapes.decode_bytes(shape, 1300)
    file = tmp_path / "out.jsonl"
    file.write_text(
        "\n".join(
            [
                line("", "about", [], machine="here"),
                line("chip", "chip", [], bytes_per_s=3e12, flops_per_s=7e14, chip="H"),
                line("native", "at 1", [9.0]),
                line("native", "at 1", [0.5, 0.5]),
                line("native", "at 8", [1.0]),
                line("official", "at 1", [2.0, 2.0, 2.0]),
                line("official", "at 8", [16.0]),
                line("native", "decode step", [moved / 2.4e12], context=1300),
                line("native", "frame", [0.1, 0.3, 0.2], size=[640, 480], questions=3, think=False),
                line("tune", "tuned", [], operators=["argmax"], graphs=False, table="argmax x1.1 kept"),
                line("flagos-on", "start", [1.0], warning="FlagGems' operator argmax failed"),
                line("flagos-on", "failed", [], reason="flag-gems is not installed"),
            ]
        )
    )
    results = gpu.Results(file)
    ratios = {made.name: (round(made.ratio, 3), made.reached) for made in gpu.comparisons(results, ["7b"])}
    assert ratios == {
        "7b at 1, native / official": (4.0, True),
        "7b at 8, native / official": (16.0, True),
        "7b decode / bandwidth": (0.8, True),
    }
    text = gpu.report(results, ["7b"])
    assert "| 7b | 640x480 | 3 | no | 200 |" in text
    assert "7b: tune_flagos chose argmax, eagerly:\n\nargmax x1.1 kept" in text
    assert "7b flagos-on: FlagGems' operator argmax failed" in text
    assert "not measured: 7b flagos-on: flag-gems is not installed" in text
