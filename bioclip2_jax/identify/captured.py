"""Pictures, or boxes in them, with what their cameras wrote beside the pixels."""

from bioclip2_jax.data import exif, images
from bioclip2_jax.identify.boxes import Box, Boxes
from bioclip2_jax.identify.inputs import Inputs


class Captured:
    """Used as the pictures themselves are. Of people, too, the file is read: for its time.

    Attributes:
      pictures: themselves.
      count: how many.
    """

    def __init__(self, pictures: Inputs | Boxes):
        """As they are."""
        self.pictures, self.count = pictures, pictures.count
        self._captures: dict[int, exif.Capture] = {}

    def look(self, number: int, *, use_truncated: bool) -> images.Seen:
        """The decoded picture; raises as theirs."""
        data = self.pictures.read(number)
        self._captures[number] = exif.capture(data)
        return self.pictures.see(number, data, use_truncated=use_truncated)

    def box(self, number: int) -> Box | None:
        """As theirs."""
        return self.pictures.box(number)

    def name(self, number: int) -> str:
        """As theirs."""
        return self.pictures.name(number)

    def capture(self, number: int) -> exif.Capture:
        """When and where it was taken; to be asked once, after it was looked at."""
        return self._captures.pop(number, exif.Capture())
