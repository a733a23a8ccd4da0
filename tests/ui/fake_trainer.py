"""Stands for the trainer where only its process counts: keeps the files of a run as the real one does, in no time.

`train CONFIG [--resume]`: takes a step each hundredth of a second, answers the control file, writes metrics.jsonl.
The environment's FAKE_TRAINER holds words: "fail" ends with an error before the first step, "slow" never ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
import tomllib
from pathlib import Path

import psutil


def main(arguments: list[str]) -> int:
    config = Path(arguments[1])
    values = tomllib.loads(config.read_text(encoding="utf-8"))
    mode = os.environ.get("FAKE_TRAINER", "") + values["run"].get("comment", "")
    if "fail" in mode or "fail" in values["run"]["name"]:
        print("model.base: there is no such base")
        return 2
    run = (config.parent / values["run"].get("output_dir", "output")).resolve() / values["run"]["name"]
    run.mkdir(parents=True, exist_ok=True)
    pid = os.getpid()
    (run / "pid.json").write_text(json.dumps({"pid": pid, "created": psutil.Process(pid).create_time()}))
    (run / "config.toml").write_bytes(config.read_bytes())
    steps = values["training"]["steps"]
    state = run / "checkpoints" / "step-000001"
    done = json.loads((state / "step").read_text()) if "--resume" in arguments and state.exists() else 0
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as metrics:

        def tell(event: str, **about: object) -> None:
            metrics.write(json.dumps({"event": event, "step": done, "time": time.time(), **about}) + "\n")
            metrics.flush()

        tell("start", steps=steps, images=1, trainable=1, device="cpu", resumed=done > 0)
        paused, reason = False, "done"
        while done < steps or "slow" in mode:
            word = take(run / "control")
            if word == "stop":
                reason = "stopped"
                break
            paused = {"pause": True, "go": False}.get(word, paused)
            if word == "save":
                tell("save", file=f"{run.name}-step{done:06d}.safetensors")
            time.sleep(0.01)
            if not paused:
                done += 1
                tell("step", loss=1 / done, lr={"unet": 1e-4}, grad_norm=1.0, images_per_second=9.0, epoch=done / 4)
        state.mkdir(parents=True, exist_ok=True)
        (state / "step").write_text(json.dumps(done))
        (run / "pid.json").unlink()
        tell("stop", reason=reason, seconds=1.0)
    return 0


def take(control: Path) -> str:
    try:
        word = control.read_text().strip()
        control.unlink()
    except OSError:
        return ""
    return word


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
