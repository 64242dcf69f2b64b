"""The inputs of tests.fuzz.decode, led by the coverage that atheris measures: python -m tests.fuzz.led_by_coverage
SECONDS SEED. A module of its own, because atheris measures what is imported under its eyes."""

import hashlib
import sys

import atheris

with atheris.instrument_imports(include=["PIL", "detector.data"]):
    from tests.fuzz.corpus import corpus
    from tests.fuzz.decode import FOLDER, MAX_SECONDS, one_input, prepare


def main(seconds: str, seed: str) -> None:
    """Ends the process, with a status that is not 0 where an input fails."""
    prepare()
    start = FOLDER / "corpus"
    start.mkdir(parents=True, exist_ok=True)
    for data in corpus(int(seed)):
        (start / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    options = [f"-max_total_time={seconds}", f"-seed={seed}", f"-timeout={MAX_SECONDS:.0f}"]
    options += [f"-artifact_prefix={FOLDER}/", str(start)]
    atheris.Setup([sys.argv[0], *options], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
