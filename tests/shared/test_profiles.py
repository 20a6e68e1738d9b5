"""Profiles: which value wins, and what a wrong file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.job_spec import InputRef, JobSpec, make_spec
from rerankfleet.shared.profiles import (
    PROFILES,
    Profile,
    ProfileOptions,
    find_profile,
    load_profiles,
    resolve,
)

JOB_OPTIONS = set(ProfileOptions.model_fields)


@pytest.fixture
def write(tmp_path):
    """`write(toml)` makes a file of profiles."""

    def written(text: str) -> Path:
        path = tmp_path / "profiles.toml"
        path.write_text(text)
        return path

    return written


def spec_of(profile: str | None, file: Path | None = None, **options) -> JobSpec:
    source = InputRef(uri="", size=0, tag="")
    return make_spec(model="m", input=source, **resolve(profile, options, file))


# ---- which value wins ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
def test_a_job_has_the_values_of_its_profile_and_its_name(name):
    spec = spec_of(name)

    assert spec.profile == name
    for option in JOB_OPTIONS:
        assert getattr(spec, option) == getattr(PROFILES[name], option)


def test_the_default_profile_is_what_a_job_has_without_one():
    assert spec_of("default").model_copy(update={"profile": None}) == spec_of(None)


def test_an_explicit_option_wins_over_the_profile_which_wins_over_the_default():
    options = {"temperature": 0.9, "max_length": None, "top_n": None, "limit": 7}

    spec = spec_of("ecommerce", **options)

    assert spec.temperature == 0.9  # given
    assert (
        spec.max_length
        == PROFILES["ecommerce"].max_length
        != JobSpec.model_fields["max_length"].default
    )  # the profile's: None is not given
    assert (spec.limit, spec.top_n, spec.top_p) == (7, None, 1.0)


@pytest.mark.parametrize("option", sorted(JOB_OPTIONS))
def test_every_field_can_be_overridden(option):
    other = {
        "instruction": "Find the opposite",
        "instructions": {"fr": "Trouve"},
        "temperature": 1.7,
        "top_p": 0.8,
        "max_length": 333,
        "image_preset": "art",
        "adaptive_temperature": True,
        "max_tokens_per_doc": 40,
        "explain": True,
        "resize_mode": "fit",
        "max_crop": 0.3,
        "pad_color": (1, 2, 3),
        "min_pixels": 5000,
        "max_pixels": 90_000,
        "quality_threshold": 0.1,
        "quality_action": "reject",
        "video_fps": 4.0,
        "video_max_frames": 3,
        "video_total_pixels": 80_000,
    }

    spec = spec_of("academic", **{option: other[option]})

    assert getattr(spec, option) == other[option]
    for name in JOB_OPTIONS - {option}:
        assert getattr(spec, name) == getattr(PROFILES["academic"], name)


def test_an_explicit_instruction_is_used_for_all_languages(write):
    file = write('[shop]\ninstruction = "Find"\ninstructions = {de = "Finde"}')

    assert spec_of("shop", file).instructions == {"de": "Finde"}
    assert spec_of("shop", file, temperature=0.5).instructions == {"de": "Finde"}
    blank = spec_of("shop", file, instructions={"de": " \n", "fr": ""})
    assert blank.instructions == {}  # a blank instruction is none, in any language
    assert spec_of("shop", file, instruction="Sell").instructions == {}
    both = spec_of("shop", file, instruction="Sell", instructions={"fr": "Vends"})
    assert (both.instruction, both.instructions) == ("Sell", {"fr": "Vends"})


def test_an_option_may_be_reset_to_what_it_is_without_a_profile(write):
    file = write('[shop]\ninstruction = "Find"\nmax_tokens_per_doc = 9\npad_color = [1, 2, 3]')

    assert spec_of("shop", file).pad_color == (1, 2, 3)
    reset = spec_of("shop", file, instruction="", max_tokens_per_doc=0)
    assert (reset.instruction, reset.max_tokens_per_doc) == (None, None)
    own = write('[shop]\nbase = "ecommerce"\ninstruction = ""')
    assert spec_of("shop", own).instruction is None


def test_built_in_profiles_leave_the_nucleus_and_adaptation_off():
    for profile in PROFILES.values():
        assert profile.top_p == 1.0
        assert not profile.adaptive_temperature
        assert profile.instructions == {}


def test_the_options_of_a_profile_are_options_of_a_job_with_the_same_defaults():
    assert set(JobSpec.model_fields) >= JOB_OPTIONS
    spec = spec_of(None)
    assert Profile().options == {name: getattr(spec, name) for name in JOB_OPTIONS}


# ---- one's own ----------------------------------------------------------------------------------


def test_a_file_adds_profiles_that_may_build_on_each_other(write):
    file = write(
        """
        [shop]
        base = "ecommerce"
        temperature = 1
        instructions = {de = "Finde Waren", fr = "Trouve"}

        [shop-fast]
        base = "shop"
        about = "titles only"
        max_length = 512
        batch_pairs = 16

        [plain]
        """
    )

    known = load_profiles(file)

    assert list(known) == [*PROFILES, "shop", "shop-fast", "plain"]
    shop, fast, ecommerce = known["shop"], known["shop-fast"], PROFILES["ecommerce"]
    assert (shop.temperature, shop.max_length, shop.batch_pairs) == (1.0, 4096, 12)
    assert shop.instruction == ecommerce.instruction
    assert shop.about == ""
    assert (fast.temperature, fast.max_length, fast.batch_pairs) == (1.0, 512, 16)
    assert fast.instructions == {"de": "Finde Waren", "fr": "Trouve"}
    assert known["plain"] == Profile()
    assert spec_of("shop-fast", file).max_length == 512


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[shop]\ntemperature = 5", r"\[shop\] of .*toml: temperature is 5: .* less than or equal"),
        ("[shop]\ntop_p = 0", r"\[shop\].*top_p is 0: .* greater than 0"),
        ("[shop]\nmax_length = 'long'", r"max_length is 'long': .* valid integer"),
        ("[shop]\nimage_preset = 'huge'", "image_preset is 'huge': expected one of general,"),
        ("[shop]\nbatch_pairs = 0", "batch_pairs is 0: .* greater than or equal to 1"),
        ("[shop]\nadaptive_temperature = 'no'", "adaptive_temperature is 'no': .* boolean"),
        ("[shop]\npad_color = [1, 2]", r"pad_color.2 is \[1, 2\]: Field required"),
        ("[shop]\ntemprature = 1", "temprature is no field of a profile: expected about, base"),
        ("[shop.instructions]\nxx = 'a'", "'xx' is no known language: expected a code such as de"),
        ("[shop.instructions]\nen = 'a'", "the instruction itself is the English one"),
        ("[shop.instructions]\nde = 1", "instructions.de is 1: .* valid string"),
        ("[shop]\nbase = 'shops'", r"\[shop\] of .*: base is 'shops': expected one of academic"),
        ("[a]\nbase = 'b'\n[b]\nbase = 'a'", r"\[b\] of .*: base is 'a': expected one of"),
        ("[a]\nbase = 'a'", r"\[a\] of .*: base is 'a'"),
        ("[ecommerce]\n", r"\[ecommerce\] of .* built-in profile: choose another name"),
        ("temperature = 1", "value 'temperature' outside of a table: write a table per profile"),
        ("[shop", "are not TOML: "),
    ],
)
def test_a_wrong_file_says_where_and_what_was_expected(write, toml, words):
    file = write(toml)

    with pytest.raises(UsageError, match=words) as refused:
        resolve("shop", {}, file)
    assert str(file) in str(refused.value)


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be read: No such file.*correct RERANK_PROFILES"):
        load_profiles(tmp_path / "none.toml")


def test_an_unknown_profile_lists_the_known_ones(write):
    with pytest.raises(UsageError) as refused:
        find_profile("shop", None)
    assert str(refused.value) == (
        "there is no profile 'shop': use one of academic, default, ecommerce, multilingual, or "
        "set RERANK_PROFILES to a file of your own"
    )
    with pytest.raises(UsageError, match="use one of academic, default, ecommerce, mine, multi"):
        find_profile("shop", write("[mine]"))
