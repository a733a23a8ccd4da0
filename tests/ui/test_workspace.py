"""What a folder of work has to offer."""

from __future__ import annotations

from pathlib import Path

from ui.workspace import Workspace


def test_bases_are_found_beside_the_configs_and_where_comfyui_and_a1111_keep_them(tmp_path: Path) -> None:
    names = [
        "models/a.safetensors",
        "ComfyUI/models/checkpoints/b.safetensors",
        "ComfyUI/models/diffusion_models/c.safetensors",
        "webui/models/Stable-diffusion/d.safetensors",
    ]
    for name in [*names, "ComfyUI/models/loras/no.safetensors", "models/no.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [name for name in Workspace(tmp_path).bases() if not Path(name).is_absolute()]
    assert sorted(found) == sorted(names)
