"""Real and generated images: decoding, layouts, deliveries, preprocessing, and the dataset that a DataLoader reads."""

from detector.data.augment import Augmentation, BlurJpeg, RandomDelivery
from detector.data.dataset import BadImage, Batch, EpochSampler, ImageDataset, Transform, collate
from detector.data.decode import (
    MAX_PIXELS,
    Admit,
    FormatRefusedError,
    ImageError,
    TooManyPixelsError,
    decode,
    decode_opened,
    read_size,
)
from detector.data.decoder import Decoder, DecoderWarning, check_decoder, find_decoder
from detector.data.delivery import Delivery
from detector.data.layouts import (
    FAKE,
    REAL,
    SPLITS,
    Collection,
    DataError,
    Sample,
    find_images,
    has_split,
    label_of,
)
from detector.data.preprocessing import Preprocessing
from detector.data.reading import read_ahead
from detector.finding import IMAGE_SUFFIXES, iterate_images, list_images

__all__ = [
    "FAKE",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "REAL",
    "SPLITS",
    "Admit",
    "Augmentation",
    "BadImage",
    "Batch",
    "BlurJpeg",
    "Collection",
    "DataError",
    "Decoder",
    "DecoderWarning",
    "Delivery",
    "EpochSampler",
    "FormatRefusedError",
    "ImageDataset",
    "ImageError",
    "Preprocessing",
    "RandomDelivery",
    "Sample",
    "TooManyPixelsError",
    "Transform",
    "check_decoder",
    "collate",
    "decode",
    "decode_opened",
    "find_decoder",
    "find_images",
    "has_split",
    "iterate_images",
    "label_of",
    "list_images",
    "read_ahead",
    "read_size",
]
