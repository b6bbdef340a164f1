"""Two domains of proteins: the same question, acid or base, with a tail that only one of the domains has."""

import csv
import random
from pathlib import Path

from runs import MODEL

TAILS = {"near": "", "far": "WFYWFY", "third": "HHPHPH", "fourth": "CCMCCM"}


def domain(path, *names, rows=72, seed=0, labels="all"):
    """Write a table of some domains in turn; of ``labels``, ``half`` leaves out every second pair and ``wrong`` turns all round."""
    dice, kinds = random.Random(seed), ("acid", "base")
    parts = ["train"] * (rows * 2 // 3) + ["valid"] * (rows // 6) + ["test"] * (rows // 6)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = ["id", "sequence", "kind", "charge", "origin", "split"]
        writer.writerow([column for column in columns if labels != "none" or column not in ("kind", "charge")])
        for row, part in enumerate(parts):
            name, kind = names[row // 2 % len(names)], row % 2
            own = ("DE", "KR")[kind] * 3 + "AGLSTVNQ"
            letters = "".join(dice.choice(own) for _ in range(dice.randrange(12, 20)))
            charge = sum((letter in "KR") - (letter in "DE") for letter in letters)
            said = kinds[1 - kind] if labels == "wrong" else kinds[kind]
            known = [said, charge] if labels != "half" or row // 2 % 2 else ["", ""]
            known = [] if labels == "none" else known
            writer.writerow([f"{name}{row}", letters + TAILS[name], *known, name, part])
    return str(path)


def recipe(near, far="", *strategies, **changes):
    """Return a recipe of six epochs on the tiny ESM-2; with ``far`` as target, if it is given."""
    head = {"name": "sequence-classification", "label": "kind"}
    return {
        "data": {"path": near},
        "split": {"column": "split"},
        "backbone": f"esm2:{MODEL}",
        "head": head,
        "strategies": list(strategies) or ["full"],
        "training": {"epochs": 6, "batch_size": 16, "learning_rate": 4e-3, "patience": 0},
        **({"target": {"path": far}} if far else {}),
    } | changes


def brief(epochs=2, **changes):
    """Return a training that is over soon."""
    return {"training": {"epochs": epochs, "batch_size": 24, "learning_rate": 3e-3, "patience": 0} | changes}
