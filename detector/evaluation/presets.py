"""The papers' test sets: the folders they consist of, how their images are treated, and what was published on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from detector.data import Collection, DataError, Preprocessing
from detector.data.preprocessing import Policy
from detector.evaluation import published
from detector.evaluation.published import Published

# Of the generators of sets that mix kinds, after Wang et al. (2020) and the authors of GenImage.
_KINDS = {
    name: kind
    for kind, names in {
        "GAN": "ProGAN StyleGAN StyleGAN2 BigGAN CycleGAN StarGAN GauGAN WFIR WhichFaceIsReal",
        "perceptual loss": "CRN IMLE",
        "low-level vision": "SITD SAN",
        "face swap": "Deepfake",
        "diffusion": "ADM Glide Midjourney SDv1.4 SDv1.5 VQDM Wukong DALLE2",
    }.items()
    for name in names.split()
}


@dataclass(frozen=True)
class Preset:
    """A test set and its rules.

    Attributes:
        name: as on the command line.
        title: for a reader.
        generators: the folders' names, in any case, by display name, in the order of the paper's table.
        policy, crop, resize: how its images are treated, see :class:`detector.data.Preprocessing`.
        rule: the same in words.
        published: rows to compare with.
        home: where the images are to be had.
        split: the split that is tested on, where the layout has splits.
    """

    name: str
    title: str
    generators: Mapping[str, tuple[str, ...]]
    policy: Policy
    rule: str
    published: tuple[Published, ...]
    home: str
    split: str = "test"
    crop: int = 224
    resize: int = 256

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of every generator, by display name; empty where the set is of one kind."""
        return {name: _KINDS[name] for name in self.generators} if set(self.generators) <= set(_KINDS) else {}

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """The set's rule with a detector's own constants."""
        return replace(own, policy=self.policy, crop=self.crop, resize=self.resize)

    def select(self, collection: Collection) -> tuple[Collection, list[str]]:
        """The set's images, their generators under display names, and the names of generators that are missing.

        Raises:
            DataError: not one of the generators is there.
        """
        display = {folder.lower(): name for name, folders in self.generators.items() for folder in folders}
        samples = tuple(
            replace(sample, generator=display[sample.generator.lower()])
            for sample in collection.samples
            if sample.generator.lower() in display
        )
        if not samples:
            folders = ", ".join(folders[0] for folders in self.generators.values())
            there = ", ".join(collection.generators) or "none"
            raise DataError(
                f"no generator of {self.title} in {collection.root}; looked for {folders}; there are {there}"
            )
        selected = replace(collection, samples=samples)
        return selected, [name for name in self.generators if name not in selected.generators]

    def ordered(self, generators: Iterable[str]) -> list[str]:
        """Display names in the order of the paper's table."""
        order = list(self.generators)
        return sorted(generators, key=order.index)


def _folders(names: str) -> dict[str, tuple[str, ...]]:
    """From words: `ProGAN` for a folder of that name in any case, `SITD=seeingdark` for one with another name."""
    pairs = (word.partition("=") for word in names.split())
    return {name: tuple((folders or name).split("|")) for name, _, folders in pairs}


_RESIZED = "resized to 256x256, no crop"
_DISTRIBUTED = "the copy that NPR's authors distribute, with 0_real and 1_fake for each generator (see their README)"

_ALL = (
    Preset(
        "forensynths-8",
        "ForenSynths, 8 generators as NPR tests",
        _folders("ProGAN StyleGAN StyleGAN2 BigGAN CycleGAN StarGAN GauGAN Deepfake"),
        "resize",
        _RESIZED,
        published.FORENSYNTHS_8,
        "the test set of CNNDetection (PeterWang512/CNNDetection on GitHub)",
    ),
    Preset(
        "forensynths-13",
        "ForenSynths, 13 generators as CNNDetection tests",
        _folders(
            "ProGAN StyleGAN BigGAN CycleGAN StarGAN GauGAN CRN IMLE SITD=seeingdark SAN Deepfake StyleGAN2 "
            "WhichFaceIsReal"
        ),
        "centre",
        "centre crop of 224x224, no resize",
        published.FORENSYNTHS_13,
        "the test set of CNNDetection (PeterWang512/CNNDetection on GitHub)",
    ),
    Preset(
        "gangen-9",
        "GANGen-Detection, 9 generators",
        _folders("AttGAN BEGAN CramerGAN InfoMaxGAN MMDGAN RelGAN S3GAN SNGAN STGAN"),
        "native",
        "whole images, no resize, no crop",
        published.GANGEN,
        "chuangchuangtan/GANGen-Detection on GitHub",
    ),
    Preset(
        "diffusionforensics-8",
        "DiffusionForensics, 8 generators",
        _folders("ADM DDPM IDDPM LDM PNDM SDv1=sdv1_new SDv2=sdv2 VQ-Diffusion=vqdiffusion"),
        "resize",
        _RESIZED,
        published.DIFFUSION_FORENSICS,
        f"ZhendongWang6/DIRE on GitHub; {_DISTRIBUTED}",
    ),
    Preset(
        "universalfakedetect-8",
        "UniversalFakeDetect, 8 generators",
        _folders(
            "DALL-E=dalle Glide-100-10=glide_100_10 Glide-100-27=glide_100_27 Glide-50-27=glide_50_27 "
            "Guided=guided LDM-100=ldm_100 LDM-200=ldm_200 LDM-200-CFG=ldm_200_cfg"
        ),
        "resize",
        _RESIZED,
        published.UNIVERSAL_FAKE_DETECT,
        f"Yuheng-Li/UniversalFakeDetect on GitHub; {_DISTRIBUTED}",
    ),
    Preset(
        "diffusion1kstep-5",
        "Diffusion1kStep, 5 generators",
        _folders("DALL-E=DALLE DDPM ADM=guided-diffusion IDDPM=improved-diffusion Midjourney"),
        "resize",
        _RESIZED,
        published.DIFFUSION_1K_STEP,
        "chuangchuangtan/NPR-DeepfakeDetection on GitHub",
    ),
    Preset(
        "aigc-16",
        "AIGCDetectBenchmark, 16 generators",
        _folders(
            "ProGAN StyleGAN BigGAN CycleGAN StarGAN GauGAN StyleGAN2 WFIR=whichfaceisreal ADM Glide Midjourney "
            "SDv1.4=stable_diffusion_v_1_4 SDv1.5=stable_diffusion_v_1_5 VQDM Wukong DALLE2"
        ),
        "native",
        "whole images, no resize, no crop",
        published.AIGC_16,
        "Ekko-zn/AIGCDetectBenchmark on GitHub",
    ),
    Preset(
        "genimage-8",
        "GenImage, 8 generators",
        _folders(
            "ADM=ADM|imagenet_ai_0508_adm BigGAN=BigGAN|imagenet_ai_0419_biggan Glide=glide|imagenet_glide "
            "Midjourney=Midjourney|imagenet_midjourney SDv1.4=stable_diffusion_v_1_4|sdv4|imagenet_ai_0419_sdv4 "
            "SDv1.5=stable_diffusion_v_1_5|sdv5|imagenet_ai_0424_sdv5 VQDM=VQDM|imagenet_ai_0419_vqdm "
            "Wukong=wukong|imagenet_ai_0424_wukong"
        ),
        "centre",
        "tiled up to 224x224 where smaller, then the centre crop of 224x224, no resize",
        published.GENIMAGE,
        "GenImage-Dataset/GenImage on GitHub",
        split="val",
    ),
)

PRESETS = {preset.name: preset for preset in _ALL}


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
