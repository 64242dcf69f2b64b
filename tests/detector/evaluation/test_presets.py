import numpy as np
import pytest

from detector.data import DataError, Preprocessing, find_images, has_split
from detector.evaluation import PRESETS, compare, draw_subset, evaluate, find_preset
from tests.detector.evaluation.stub import Roughness, make_tree

# Folders as the real sets have them, below the folder that is given to the command.
TREES = {
    name: folders.split()
    for name, folders in {
        "forensynths-8": """
            progan/airplane progan/sofa stylegan/bedroom stylegan2/church cyclegan/apple biggan stargan gaugan deepfake
            crn imle san seeingdark whichfaceisreal""",
        "forensynths-13": """
            test/progan/airplane test/stylegan/bedroom test/stylegan2/church test/cyclegan/apple test/biggan
            test/stargan test/gaugan test/deepfake test/crn test/imle test/san test/seeingdark test/whichfaceisreal""",
        "gangen-9": "AttGAN BEGAN CramerGAN InfoMaxGAN MMDGAN RelGAN S3GAN SNGAN STGAN",
        "diffusionforensics-8": """
            adm/imagenet adm/bedroom ddpm iddpm ldm/bedroom pndm sdv1_new sdv2 vqdiffusion""",
        "universalfakedetect-8": """
            dalle glide_100_10 glide_100_27 glide_50_27 guided ldm_100 ldm_200 ldm_200_cfg""",
        "diffusion1kstep-5": "DALLE ddpm/google-ddpm-bedroom-256 guided-diffusion improved-diffusion midjourney",
        "aigc-16": """
            ADM DALLE2 Glide Midjourney VQDM biggan cyclegan/horse gaugan progan/cat stargan stable_diffusion_v_1_4
            stable_diffusion_v_1_5 stylegan/car stylegan2/car whichfaceisreal wukong""",
        "genimage-8": """
            ADM/train BigGAN/train ADM/val BigGAN/val glide/val Midjourney/val VQDM/val wukong/val
            stable_diffusion_v_1_4/val stable_diffusion_v_1_5/imagenet_ai_0424_sdv5/val""",
    }.items()
}


def collect(root, preset):
    labels = ("nature", "ai") if preset.name == "genimage-8" else ("0_real", "1_fake")
    make_tree(root, TREES[preset.name], np.random.default_rng(), count=1, labels=labels, size=(16, 18))
    return find_images(root, preset.split if has_split(root, preset.split) else None)


@pytest.mark.parametrize("name", PRESETS)
def test_finds_all_generators_in_the_real_layout(name, tmp_path):
    preset = find_preset(name)
    collection, missing = preset.select(collect(tmp_path, preset))
    assert missing == []
    assert set(collection.generators) == set(preset.generators)
    assert preset.ordered(collection.generators) == list(preset.generators)
    number = int(name.rpartition("-")[2])
    assert len(preset.generators) == number
    if name == "genimage-8":
        assert len(collection) == 2 * number  # val alone
    if name == "forensynths-8":
        assert "sofa" in collection.categories


@pytest.mark.parametrize("name", PRESETS)
def test_published_rows(name):
    """Percents of the preset's generators, whose means are those that the source prints."""
    preset = find_preset(name)
    for row in preset.published:
        assert row.source
        for values, mean in (
            (row.accuracy, row.mean_accuracy),
            (row.average_precision, row.mean_average_precision),
        ):
            assert set(values) <= set(preset.generators)
            assert all(40 <= value <= 100 for value in values.values())
            assert len(values) in (0, len(preset.generators), len(preset.generators) - 1)
            if values and mean is not None:
                assert np.mean(list(values.values())) == pytest.approx(mean, abs=0.0501)


def test_rules():
    own = Preprocessing(policy="native", crop=64, scale=0.5)
    resized = find_preset("forensynths-8").preprocessing(own)
    assert (resized.policy, resized.resize, resized.crop, resized.scale) == ("resize", 256, 224, 0.5)
    assert find_preset("aigc-16").preprocessing(own).policy == "native"
    assert find_preset("gangen-9").preprocessing(own).policy == "native"
    centre = find_preset("genimage-8").preprocessing(own)
    assert (centre.policy, centre.crop) == ("centre", 224)


def test_kinds():
    """Of the four sets that mix them."""
    kinds = {name: set(preset.kinds.values()) for name, preset in PRESETS.items()}
    assert kinds["forensynths-8"] == {"GAN", "face swap"}
    assert kinds["forensynths-13"] == {"GAN", "face swap", "perceptual loss", "low-level vision"}
    assert kinds["aigc-16"] == kinds["genimage-8"] == {"GAN", "diffusion"}
    assert sum(bool(values) for values in kinds.values()) == 4
    genimage = find_preset("genimage-8").kinds
    assert [name for name, kind in genimage.items() if kind == "GAN"] == ["BigGAN"]


def test_missing_generators(tmp_path):
    preset = find_preset("gangen-9")
    make_tree(tmp_path, ["attgan", "STGAN", "elsewhere"], np.random.default_rng(), count=1)
    collection, missing = preset.select(find_images(tmp_path))
    assert collection.generators == ("AttGAN", "STGAN")
    assert missing == ["BEGAN", "CramerGAN", "InfoMaxGAN", "MMDGAN", "RelGAN", "S3GAN", "SNGAN"]
    with pytest.raises(DataError, match=r"no generator of GenImage.*looked for ADM, BigGAN.*there are STGAN"):
        find_preset("genimage-8").select(find_images(tmp_path))
    with pytest.raises(ValueError, match="unknown preset 'imagenet'; there are forensynths-8"):
        find_preset("imagenet")


def evaluated(root, preset, folders):
    from dataclasses import replace

    make_tree(root, folders, np.random.default_rng(), count=1)
    collection, _ = preset.select(find_images(root))
    evaluation = evaluate(Roughness(), collection, name="rough")
    return replace(evaluation, provenance=replace(evaluation.provenance, preset=preset.name))


def test_comparison_means_are_over_what_is_there(tmp_path):
    preset = find_preset("forensynths-8")
    part = compare([evaluated(tmp_path / "part", preset, ["stylegan/car", "progan/cat"])])
    assert part.generators == ("ProGAN", "StyleGAN")
    npr = next(column for column in part.columns if column.detector == "NPR")
    assert npr.mean.accuracy == pytest.approx((99.8 + 96.3) / 200)
    assert npr.cells["StyleGAN"].average_precision == pytest.approx(0.998)
    assert "Table 1" in npr.source

    whole = compare([evaluated(tmp_path / "whole", preset, TREES["forensynths-8"])])
    npr = next(column for column in whole.columns if column.detector == "NPR")
    assert npr.mean.accuracy == pytest.approx(0.925)

    only_means = compare([evaluated(tmp_path / "gans", find_preset("gangen-9"), ["BEGAN"])])
    assert only_means.columns[1].mean.accuracy is None


def test_subset(tmp_path):
    make_tree(tmp_path, ["alpha", "beta"], np.random.default_rng(), count=7)
    everything = find_images(tmp_path)
    few = draw_subset(everything, 3, seed=1)
    counts = {name: (part.labels.count(0), part.labels.count(1)) for name, part in few.by_generator().items()}
    assert counts == {"alpha": (3, 3), "beta": (3, 3)}
    assert few == draw_subset(everything, 3, seed=1)
    assert few.samples != draw_subset(everything, 3, seed=2).samples
    assert list(few.samples) == sorted(few.samples, key=lambda sample: sample.path)
    assert draw_subset(everything, 100) == everything
    alone = draw_subset(everything.select(generators=["beta"]), 3, seed=1)
    assert alone.samples == few.select(generators=["beta"]).samples
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        draw_subset(everything, 0)
