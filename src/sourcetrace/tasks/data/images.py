"""Pictures: a folder with a sub-folder a class, or a column of paths or of files' bytes."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import polars as pl
import torch
from PIL import Image
from torch import Tensor

from sourcetrace.errors import InputError
from sourcetrace.progress import track
from sourcetrace.tasks.data.base import DataArguments, DataTask
from sourcetrace.tasks.data.hugging_face import is_saved
from sourcetrace.tasks.data.identity import content_digest
from sourcetrace.tasks.data.picture_folder import FILE, classes_of_folder, table_of_folder
from sourcetrace.tasks.data.sources import Rows, Source
from sourcetrace.validation import validated

# Not Pillow's others: some call programs of the system, as EPS does Ghostscript.
_FORMATS: Final = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SIXTEEN_BITS: Final = re.compile(r";16[BLNS]")
"""In Pillow's names of how values are stored."""

_LARGEST: Final = 255

_EIGHT_BITS: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


class _ImageArguments(DataArguments):
    """Arguments of `ImageData`, beside those of every adapter.

    Attributes:
        image: Column of paths, of files' bytes, or of pictures of Hugging Face's `datasets`; not
            for a folder of classes.
        folder: Where paths in a table begin; by default the table's folder.
        mode: To which pictures are converted.
        size: Height and width to which they are resized, bilinearly.
        mean: Of each channel, in units of 0 to 1, subtracted.
        std: Of each channel, divided by afterwards.
    """

    image: str = FILE
    folder: str | None = None
    mode: Literal["L", "RGB"] = "RGB"
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


class ImageData(DataTask):
    """Pictures as `transform` makes tensors of them.

    Args:
        arguments: See `_ImageArguments`.
    """

    def __init__(self, **arguments: Any) -> None:
        self._image = validated(_ImageArguments, arguments, name="task.arguments")
        channels = len(self._image.mode)
        for name, values in (("mean", self._image.mean), ("std", self._image.std)):
            if len(values) not in {1, channels} or (name == "std" and min(values) <= 0):
                raise InputError(
                    f"task.arguments.{name} is {list(values)}; expected one value, or one for "
                    f"each of the {channels} channels of {self._image.mode}, std above 0."
                )
        self._paths = False
        super().__init__(self._image)

    def transform(self, picture: Image.Image) -> Tensor:
        """Return what the model is given of a picture, float32 [C, H, W].

        That is (value / 255 - mean) / std of each channel, after `size`. Return here what the
        training's own evaluation transform gives, where it does something else.
        """
        values = torch.from_numpy(np.array(self._sized(picture))).float().div(255)
        values = (values[None] if values.ndim == 2 else values.movedim(-1, 0)).contiguous()  # noqa: PLR2004
        mean, std = (
            torch.tensor(one)[:, None, None] for one in (self._image.mean, self._image.std)
        )
        return (values - mean) / std

    def collate(self, items: Sequence[Any]) -> Any:
        """Join items; refuse pictures of several sizes."""
        sizes = list(dict.fromkeys(tuple(item[0].shape) for item in items))
        if len(sizes) > 1:
            said = " and ".join(" × ".join(map(str, one)) for one in sizes[:2])
            raise InputError(
                f"pictures of {said} values do not go into one batch: name a size in "
                "task.arguments.size, or write transform()"
            )
        return super().collate(items)

    def picture(self, index: int) -> "np.ndarray[Any, Any]":
        """Return a training picture, of `size` if there is one, 0 to 1."""
        return self._drawn(self._train.examples.inputs, index)

    def query_picture(self, index: int) -> "np.ndarray[Any, Any]":
        """Return a query's picture likewise."""
        return self._drawn(self._queries.examples.inputs, index)

    def _drawn(self, pictures: "_Pictures", index: int) -> "np.ndarray[Any, Any]":
        return np.asarray(self._sized(pictures.decoded(index))) / 255

    def _sized(self, picture: Image.Image) -> Image.Image:
        if self._image.size is None:
            return picture
        height, width = self._image.size
        return picture.resize((width, height), Image.Resampling.BILINEAR)

    def _columns(self) -> Sequence[str]:
        return [self._image.image]

    def _shown(self) -> Sequence[str]:
        return self._columns() if self._paths else []

    def _read(
        self, given: Any, called: str, columns: Sequence[str], optional: Sequence[str]
    ) -> Rows:
        source = Source.of(given, called)
        folder = Path(source.data) if isinstance(source.data, str | Path) else None
        if folder is None or not folder.is_dir() or is_saved(folder):
            rows = super()._read(given, called, columns, optional)
            return replace(rows, folder=Path(self._image.folder or rows.folder))
        table = table_of_folder(folder, called, classes=self._given.label is not None)
        rows = replace(source, data=table).rows(columns, optional=optional)
        return replace(rows, folder=folder, class_names={"label": classes_of_folder(folder)})

    def _inputs(self, rows: Rows) -> "_Pictures":
        column = rows.table[self._image.image]
        self._paths = column.dtype == pl.String
        if column.dtype == pl.Struct:
            column = column.struct.field("bytes")
        if column.dtype not in (pl.String, pl.Binary):
            raise InputError(
                f"{rows.called}: {self._image.image!r} holds {column.dtype}; expected paths, or "
                "the bytes of files. Name the column in task.arguments.image."
            )
        rows.refuse(column.is_null(), f"{self._image.image!r} is empty", "Leave these rows out.")
        return _Pictures(column, rows.folder, self._image, self.transform)

    def _contents(self, rows: Rows) -> list[str]:
        pictures = self._inputs(rows)
        return [pictures.content(i) for i in track(range(len(pictures)), "Reading pictures")]


@dataclass(frozen=True)
class _Pictures:
    """Pictures that are read when they are asked for; paths start at `folder`."""

    column: pl.Series
    folder: Path
    given: _ImageArguments
    transform: Callable[[Image.Image], Tensor]

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.decoded(index))

    def content(self, index: int) -> str:
        """Return the digest of a file; of its name, where it cannot be read."""
        try:
            return content_digest(self.raw(index))
        except OSError:
            return content_digest(self._name(index).encode(), b"")

    def raw(self, index: int) -> bytes:
        """Return the file's bytes."""
        value = self.column[index]
        if isinstance(value, bytes):
            return value
        file = Path(self.folder, value).resolve()
        if not file.is_relative_to(self.folder.resolve()):
            raise InputError(
                f"{value!r} in column {self.given.image!r} leads out of {self.folder}; expected "
                "files below it, links too. Copy it there; for a table, name the folder that holds "
                "all pictures in task.arguments.folder."
            )
        return file.read_bytes()

    def decoded(self, index: int) -> Image.Image:
        """Return a picture in the mode that was asked for.

        Raises:
            InputError: If it cannot be read or decoded.
        """
        name = self._name(index)
        try:
            return _decoded(self.raw(index), self.given.mode)
        except InputError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InputError(
                f"{name} would have more pixels than Pillow takes for safe "
                f"({Image.MAX_IMAGE_PIXELS:,}). Leave it out, or store it smaller"
            ) from error
        except Exception as error:  # a damaged file may make a decoder raise anything
            said = getattr(error, "strerror", None) or str(error).split(" <", 1)[0]
            raise InputError(f"{name}: {said}") from error

    def _name(self, index: int) -> str:
        value = self.column[index]
        return value if isinstance(value, str) else f"picture {index}"


def _decoded(raw: bytes, mode: str) -> Image.Image:
    """Return a picture of 8 bits a channel, converted."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = Image.open(io.BytesIO(raw), formats=_FORMATS)
        # Converting would cut the values off; of several channels, reading does.
        if picture.mode not in _EIGHT_BITS or _is_cut(picture):
            raise ValueError(f"mode {picture.mode}, not 8 bits a channel")
        return picture.convert(mode)


def _is_cut(picture: Any) -> bool:
    """Return whether Pillow reads the upper 8 bits of each value alone."""
    return any(
        args[-1] > _LARGEST if codec.startswith("ppm") else _SIXTEEN_BITS.search(str(args))
        for codec, _, _, args in picture.tile
    )
