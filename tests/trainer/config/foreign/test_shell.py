"""A training command in a script: which of its words are known, and which depend on what happens when it runs."""

from __future__ import annotations

import pytest

from trainer.config.foreign.shell.commands import command
from trainer.errors import UserError

TRAIN = "accelerate launch train_network.py --network_module=networks.lora"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"cd sd-scripts && {TRAIN} --seed=3", "3"),
        (f"source venv/bin/activate; {TRAIN} --seed 3; echo done", "3"),
        (f"{TRAIN} --seed 3 2>&1 | tee train.log", "3"),
        (f"{TRAIN} --seed 3 & wait", "3"),
        (f"$seed = 3\n& {TRAIN} `\n  --seed=$seed", "3"),
        (f"SEED=3\nif [ -d x ]; then OTHER=1; fi\n{TRAIN} --seed=$SEED", "3"),
        (f'# if you like: SEED=4\nSEED=3\n{TRAIN} --seed="$SEED"', "3"),
    ],
)
def test_the_command_is_found_among_others_on_its_line(text: str, found: str) -> None:
    parsed = command(text)
    assert parsed is not None
    assert parsed.arguments == {"network_module": "networks.lora", "seed": found}


@pytest.mark.parametrize(
    "text",
    [
        f"A=()\nif [[ $V == 1 ]]; then A+=(--v2); fi\n{TRAIN} ${{A[@]}}",
        f"A=()\nif [[ $V == 1 ]]; then\n  A+=(--v2)\nfi\n{TRAIN} ${{A[@]}}",
        f'A=""\n[ $V == 1 ] && A="--v2"\n{TRAIN} $A',
        f"A=1\nfor A in 1 2; do\n  A=$A\n{TRAIN} --seed=$A\ndone",
        f"A=$((2 * 3))\n{TRAIN} --seed=$A",
        f'$A = @()\nif ($v) {{\n  $A += "--v2"\n}}\n{TRAIN} `\n  @A',
        f'$A = [System.Collections.ArrayList]::new()\n[void]$A.Add("--v2")\n{TRAIN} `\n  @A',
        f'$A = "run_" + $n\n{TRAIN} `\n  --output_name=$A',
        f'@echo off\nset A=\nif "%V%"=="1" set A=--v2\n{TRAIN} %A%',
        f'@echo off\nset A=\nif "%V%"=="1" (\n  set A=--v2\n)\n{TRAIN} %A%',
        f"@echo off\nset A=1\nset /a A=A+1\n{TRAIN} --seed=%A%",
    ],
)
def test_a_variable_that_hangs_on_a_condition_is_not_guessed(text: str) -> None:
    with pytest.raises(UserError, match=r"line \d+: (A|a) is not set in this file in a way that can be read"):
        command(text)
