"""What an instance starts from."""

from pathlib import Path

from enclip.config import Settings
from enclip.models.bases import at_frame, load_base
from enclip.models.checkpoint import save_checkpoint
from enclip.pipeline.platform import open_platform
from enclip.pipeline.runs import Plan
from enclip.pipeline.train import starting_model
from enclip.recipes import RetrainRecipe, TrainRecipe
from tests.unit.models.small_models import CPU


def test_a_training_goes_on_in_the_shape_that_it_began_with(tmp_path: Path) -> None:
    platform = open_platform(Settings(ENCLIP_HOME=tmp_path / "home"))
    plan = Plan.model_construct(recipe=RetrainRecipe(), base_source="")
    square = load_base("tiny", seed=0, device=CPU)
    frames = []
    for number, begun in enumerate((None, square, at_frame(square, 0.75))):
        state = tmp_path / str(number)
        if begun:
            save_checkpoint(state / "epoch-00", begun, pixel_side=80)
        model = starting_model(platform, plan, 0.75, state, instance=0, device=CPU)
        frames.append(model.architecture.preprocessing.frame)
    assert frames == [(80, 60), None, (80, 60)]


def test_an_image_tower_looks_at_pictures_of_the_side_that_is_asked_for(tmp_path: Path) -> None:
    platform = open_platform(Settings(ENCLIP_HOME=tmp_path / "home"))
    plan = Plan.model_construct(recipe=RetrainRecipe(train=TrainRecipe(image_side=48)), base_source="")
    model = starting_model(platform, plan, 0.75, tmp_path, instance=0, device=CPU)
    assert (model.side, model.architecture.preprocessing.frame) == (48, (48, 36))
