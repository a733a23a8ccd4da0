"""OneTrainer's masked training, with its masks beside the images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.trainer.config.importing.cases import CASES
from trainer.config import reading
from trainer.config.importing.run import imported

MASKED = {
    "masked_training": True,
    "unmasked_weight": 0.2,
    "normalize_masked_area_loss": True,
    "masked_prior_preservation_weight": 0.5,
}


@pytest.mark.parametrize("labelled", [True, False])
def test_masks_beside_the_images(tmp_path: Path, labelled: bool) -> None:
    file = CASES["OneTrainer"].write(tmp_path)
    if labelled:
        for image in (tmp_path / "photos").glob("*.png"):
            Image.new("L", Image.open(image).size, 255).save(image.with_name(f"{image.stem}-masklabel.png"))
    file.write_text(json.dumps(json.loads(file.read_text()) | MASKED))
    config = reading.parse(imported(file, tmp_path / "mine.toml").text, directory=tmp_path)
    subset = config.datasets[0].subsets[0]
    assert bool(subset.conditioning_data_dir) is labelled
    assert subset.mask_outside == (0.2 if labelled else 0)
    assert config.loss.normalize_masked_area and config.preservation.outside_mask == 0.5
