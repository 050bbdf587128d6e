"""A picture looked at several times, each time moved a little: the mean of what is seen is steadier than one look.

For the catalog's pictures alone, which are embedded once: words, pictures in a query and epochs in training have one.
"""

from dataclasses import dataclass

from torch import Tensor

from enclip.models.pixels import warp


@dataclass(frozen=True, slots=True)
class View:
    """One look. `zoom` above 1 shows the product larger; the network has seen such pictures in training."""

    zoom: float = 1.0
    mirrored: bool = False

    def of(self, image_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] as they look in this view: the same shape, white outside the canvas."""
        if self.zoom == 1:
            return image_BCHW.flip(-1) if self.mirrored else image_BCHW
        across = -1 / self.zoom if self.mirrored else 1 / self.zoom
        theta_B23 = image_BCHW.new_tensor([[across, 0, 0], [0, 1 / self.zoom, 0]]).expand(len(image_BCHW), 2, 3)
        return warp(image_BCHW, theta_B23)


# As large as pictures are in the mean of training, which makes most of them smaller, and as large as they are.
SMALLER = 0.93
VIEWS = (View(), View(mirrored=True), View(zoom=SMALLER), View(zoom=SMALLER, mirrored=True))


def views_of(views: int, *, from_scratch: bool) -> int:
    """What a recipe's number of views means for a model; 0: all where it was trained from nothing, else one."""
    return views or (len(VIEWS) if from_scratch else 1)
