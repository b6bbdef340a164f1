"""The same component in another process: found again through its module, fed the same inputs, answering in digests.

Run as ``python -m exapt.testing._fresh``; the errand comes as JSON on standard input, the answer on standard output.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from exapt.data.batching import collate
from exapt.features import encodings_digest
from exapt.parts import Backbone, Encoding, Tokenizer
from exapt.plugins import Plugins
from exapt.recipe import validated
from exapt.specs import BackboneSpec, Options, Spec, TokenizerSpec


def home_of(spec: Any) -> str:
    """Return the importable plugin module that a component comes from; empty for one written inside a test."""
    build = getattr(spec.build, "func", spec.build)
    name = str(getattr(build, "__module__", ""))
    module = sys.modules.get(name)
    known = name != "__main__" and hasattr(module, "exapt_api") and importlib.util.find_spec(name) is not None
    return name if known else ""


def part(spec: Spec, options: Options) -> dict[str, Any]:
    """Describe a component so that another process can build it again."""
    return {"home": home_of(spec), "name": spec.name, "options": options.model_dump(mode="json")}


def ask_fresh_process(errand: dict[str, Any]) -> dict[str, str]:
    """Return the digests that a new process finds: ``tokens``, and ``hidden`` where the errand names a backbone.

    Raises ``RuntimeError`` with the last line that the process said, if it failed.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # Sets of strings are in another order there, whatever this process was started with.
    environment["PYTHONHASHSEED"] = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-m", "exapt.testing._fresh"],
        input=json.dumps({**errand, "threads": torch.get_num_threads()}),
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"in a fresh process: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    answer: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def digest_of(hidden: Tensor) -> str:
    """Return the sha256 of a tensor's bytes."""
    return hashlib.sha256(hidden.contiguous().numpy().tobytes()).hexdigest()


def tokens_of(encodings: Sequence[Encoding]) -> str:
    """Return the sha256 of what a model reads of all inputs."""
    return encodings_digest(encodings)


def _rebuilt(kind: type[BackboneSpec] | type[TokenizerSpec], described: dict[str, Any], *args: Any) -> Any:
    home = described["home"]
    extra = [] if home.startswith("exapt.builtin") else [importlib.import_module(home)]
    spec: Any = Plugins([], extra).get(kind, described["name"]).spec
    return spec.build(validated(spec.options, described["options"], described["name"]), *args)


def _answer(errand: dict[str, Any]) -> dict[str, str]:
    torch.set_num_threads(errand["threads"])
    tokenizer: Tokenizer = _rebuilt(TokenizerSpec, errand["tokenizer"])
    encodings = [tokenizer.encode(value) for value in errand["inputs"]]
    if "backbone" not in errand:
        return {"tokens": tokens_of(encodings)}
    backbone: Backbone = _rebuilt(BackboneSpec, errand["backbone"], True)
    backbone.load_state_dict(load_file(errand["state"]))
    with torch.inference_mode():
        hidden = backbone.eval()(collate(encodings)).hidden
    return {"tokens": tokens_of(encodings), "hidden": digest_of(hidden)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_answer(json.load(sys.stdin))) + "\n")
