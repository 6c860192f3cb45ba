"""
One of two processes with the weights spread over both: a step on a film of one window on the first, of five on the
second; see `test_distributed.py`. Arguments: checkpoint, result (safetensors), and which kind of step.
"""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist
import yaml
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard

from videoxl import VideoXLForCausalLM
from videoxl.training.distributed import equalize_passes
from videoxl.training.run import CONFIGS

PATIENCE = timedelta(seconds=40)  # until a collective that only one process joins is an error


def lesson(model, rank, text_only=False):
    """A prompt with a film of one window or of five, or none, and a labelled answer."""
    draw = torch.Generator().manual_seed(rank)
    frames = 0 if text_only else (7, 56)[rank]
    text = torch.randint(0, 499, (1, 20), generator=draw)
    film = torch.full((1, 4 * frames), model.config.video_token_id)
    ids = torch.cat((text[:, :6], film, text[:, 6:]), dim=1)
    labels = torch.where(torch.arange(ids.shape[1]) < ids.shape[1] - 8, -100, ids)
    arguments = {"input_ids": ids, "labels": labels, "ratio_seeds": torch.tensor([rank])}
    if frames:
        arguments["pixel_values_videos"] = [torch.randn(frames, 3, 56, 56, generator=draw)]
    return arguments


def prepare(model, kind):
    """The model as the kind of step needs it."""
    if "recomputed" in kind:
        model.enable_window_checkpointing()
    if "layers" in kind:
        model.activation_checkpointing_enable()
    return model.train()


def shard(model):
    """Spreads the layers that the shipped configuration names, as accelerate does on GPUs."""
    settings = yaml.safe_load((CONFIGS / "fsdp.yaml").read_text())["fsdp_config"]
    names = settings["fsdp_transformer_layer_cls_to_wrap"].split(",")
    for module in model.modules():
        if type(module).__name__ in names:
            fully_shard(module, reshard_after_forward=settings["fsdp_reshard_after_forward"])
    fully_shard(model)


def main(checkpoint, result, kind):
    dist.init_process_group("gloo", timeout=PATIENCE)
    rank = dist.get_rank()
    model = prepare(VideoXLForCausalLM.from_pretrained(checkpoint), kind)
    equalize_passes(model)
    shard(model)
    arguments = lesson(model, rank, text_only="text" in kind and rank == 0)
    loss = model(**arguments).loss
    loss.backward()
    found = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}
    model.eval()
    with torch.no_grad():
        evaluated = model(**arguments).loss
    losses = [torch.zeros(2) for _ in range(2)]
    dist.all_gather(losses, torch.stack((loss.detach(), evaluated)))
    if rank == 0:
        save_file({**found, "losses": torch.stack(losses)}, result)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
