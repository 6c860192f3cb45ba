"""The LM head row that the authors' code adds at load time, recovered for the goldens' training cases.

Their loss runs over ``vocab_size + 1`` logits. The added row is untrained, drawn anew (standard deviation
``initializer_range``) whenever the model is loaded, and not among the goldens; without it every loss is 1.2e-3 too
low. But it leaves its trace in the goldens' gradients: 64 unknown numbers against 12,288 known ones. The fit uses two
gradients only, so the loss and all other gradients stay free to disagree.

``python tests/reference/extra_row.py`` (with the repository's root on PYTHONPATH) writes the fixture again.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.authors_way import AuthorsWay, Hyper, load_published

FIXTURES = Path(__file__).parent.parent / "fixtures"
GOLDENS = FIXTURES / "authors_tiny"
STORED = FIXTURES / "authors_extra_rows.safetensors"
FITTED = ("layers.2.mlp.down_proj.weight", "layers.0.self_attn.q_proj.weight")


Tensors = dict[str, Tensor]


def training_loss(case: dict, tensors: Tensors, weights: Tensors, hyper: Hyper, extra_row: Tensor) -> Tensor:
    """The restatement's loss on one golden training case, the extra row [D] in the LM head."""
    name = case["name"]
    head = weights["lm_head.weight"]
    weights = {**weights, "lm_head.weight": torch.cat([head, extra_row[None]])}
    video = tensors["video0.visual_features"].to(head.dtype)
    features = video[torch.arange(case["visual_tokens"]) % len(video)]  # tokens of repeated frames
    ids, labels = tensors[f"{name}.input_ids"], tensors[f"{name}.labels"]
    place = ids.tolist().index(-200)
    segments = [("text", ids[:place]), ("visual", features), ("text", ids[place + 1 :])]
    labels = torch.cat([labels[:place], labels.new_full((len(features),), -100), labels[place + 1 :]])
    logits = AuthorsWay(weights, hyper).run(segments, case["ratio"]).logits
    return F.cross_entropy(logits[:-1], labels[1:], ignore_index=-100)


def recover(case: dict, tensors: Tensors, weights: Tensors, hyper: Hyper) -> Tensor:
    """The extra row [D] that explains the golden's gradients of ``FITTED``, by Gauss-Newton from zero."""
    weights = {key: tensor.double() for key, tensor in weights.items()}
    parameters = [weights[f"model.language_model.{name}"].requires_grad_() for name in FITTED]
    expected = [tensors[f"{case['name']}.grad.model.{name}"].double() for name in FITTED]

    def misfit(row: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the only one with second derivatives
            loss = training_loss(case, tensors, weights, hyper, row)
            grads = torch.autograd.grad(loss, parameters, create_graph=True)
        return torch.cat([((grad - want) / want.norm()).flatten() for grad, want in zip(grads, expected)])

    row = torch.zeros(weights["lm_head.weight"].shape[1], dtype=torch.double)
    for _ in range(3):
        row.requires_grad_()
        residual = misfit(row)
        probe = torch.zeros_like(residual, requires_grad=True)
        (pulled,) = torch.autograd.grad(residual, row, probe, create_graph=True)  # J^T probe, [D]
        jacobian = torch.stack(
            [torch.autograd.grad(entry, probe, retain_graph=True)[0] for entry in pulled], dim=1
        )  # [values, D]
        row = row.detach() - torch.linalg.lstsq(jacobian, residual.detach()[:, None]).solution[:, 0]
    return row.float()


def main() -> None:
    tensors = load_file(GOLDENS / "cases.safetensors")
    weights, hyper = load_published(GOLDENS / "checkpoint")
    cases = [case for case in json.loads((GOLDENS / "cases.json").read_text()) if case["kind"] == "train"]
    save_file({case["name"]: recover(case, tensors, weights, hyper) for case in cases}, STORED)


if __name__ == "__main__":
    main()
