"""Development pictures in a knowledge base, found by their titles: the figure that the guide to the one space names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.needs import IMAGE_ENCODER, PICTURES

from deepwell.knowledge.local import LocalKnowledge
from deepwell.media.images.training.pictures import PictureSet
from deepwell.server.options import ImageServing, RecognitionServing
from deepwell.server.senses.knowledge import knowledge_senses
from deepwell.settings import Settings

CHOSEN = 100


@pytest.mark.nightly
@pytest.mark.needs(IMAGE_ENCODER, PICTURES)
async def test_pictures_are_found_by_their_titles(e5_path: Path, tmp_path: Path) -> None:
    settings = Settings.load().model_copy(update={"data_dir": tmp_path / "data"})
    folder = settings.models_dir.parent / "media" / "pictures"
    pictures = PictureSet.read(folder)
    chosen = [index for index in pictures.where("development") if pictures.rows[index].title][:CHOSEN]
    paths = [tmp_path / f"{index}.png" for index in chosen]
    for index, path in zip(chosen, paths, strict=True):
        Image.fromarray(np.asarray(pictures.images[index])).save(path)
    images = ImageServing(models_dir=settings.models_dir, threads=1, guard="off")
    recognition = RecognitionServing(models_dir=settings.models_dir)
    ranks: list[int] = []
    async with LocalKnowledge(settings, senses=lambda: knowledge_senses(images, recognition)) as knowledge:
        store = await knowledge.create("pictures", embedder="e5-small-q4")
        await knowledge.add_files(store.id, paths)
        assert not await knowledge.failed(store.id)
        for index, path in zip(chosen, paths, strict=True):
            found = [one.filename for one in await knowledge.search(store.id, pictures.rows[index].title)]
            ranks.append(found.index(path.name) if path.name in found else CHOSEN)
    first, ten = sum(rank < 1 for rank in ranks), sum(rank < 10 for rank in ranks)
    print(f"of {len(chosen)} pictures {first} come first, and {ten} among the first 10")
    assert ten >= 0.6 * len(chosen)
