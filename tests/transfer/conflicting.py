"""Two tasks of one question: what tells the answer in the first misleads in the second."""

import random

from runs import MODEL


def conflicting(folder):
    """Write two tables of one question: what tells it in the first misleads, though weakly, in the second."""
    letters = {
        "one": {"acid": "DDDDEEEEAGST", "base": "KKKKRRRRAGST"},
        "two": {"acid": "FFFFWWWWKKRRAGST", "base": "PPPPHHHHDDEEAGST"},
    }
    for seed, (name, own) in enumerate(letters.items()):
        dice = random.Random(seed)
        rows = ["id,sequence,kind,split"]
        for row, part in enumerate(["train"] * 32 + ["valid"] * 8 + ["test"] * 8):
            kind = ("acid", "base")[row % 2]
            rows.append(f"s{row},{''.join(dice.choice(own[kind]) for _ in range(dice.randrange(8, 20)))},{kind},{part}")
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return folder


def plan(tables, method="finetune", head="shared", **changes):
    return {
        "backbone": f"esm2:{MODEL}",
        "strategy": "full",
        "head": {"name": "sequence-classification", "label": "kind"},
        "split": {"column": "split"},
        "training": {
            "epochs": 4,
            "batch_size": 8,
            "learning_rate": 4e-3,
            "head_learning_rate": 3e-3,
            "metric": "accuracy",
        },
        "sequence": {"method": method, "head": head},
        "tasks": [{"name": name, "data": {"path": str(tables / f"{name}.csv")}} for name in ("one", "two")],
    } | changes
