"""Whether results are still what was made of what: `python -m stages.verify [RESULTS]`.

Every provenance.json below RESULTS has the SHA-256 of each file that its job read and of those that it wrote beside it,
and every kept.json of the weights beside it. A file with another one now was changed, cut short or made again since.
Exit code 1 if there is such a file. What is not here (after a partial pull, or because not all weights are kept) is
counted.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from stages.files import sha256


def recorded(results: Path) -> Iterator[tuple[Path, str, Path]]:
    """Each file that a job read or wrote, with its hash then, and the file that says so; likewise kept weights.

    Raises:
        ValueError: such a file cannot be read.
    """
    for told in sorted([*results.rglob("provenance.json"), *results.rglob("kept.json")]):
        try:
            content = json.loads(told.read_text(encoding="utf-8"))
            if told.name == "provenance.json":
                hashes = {Path(name): digest for name, digest in content["inputs"].items()}
                hashes |= {told.parent / name: digest for name, digest in content.get("outputs", {}).items()}
            else:
                hashes = {
                    told.parent / f"epochs/epoch{epoch}.safetensors": kept["sha256"]
                    for epoch, kept in content["epochs"].items()
                }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{told}: cannot be read ({error!r}); was it cut short?") from None
        for path, digest in hashes.items():
            yield path, digest, told


def verify(results: Path) -> tuple[int, list[str], list[Path]]:
    """Compare files with their records.

    Returns:
        How many files are as recorded, a line for each that is not, and those that are not here.

    Raises:
        ValueError: there is no record.
    """
    hashes: dict[Path, str] = {}
    changed, missing, wrong = list[str](), set[Path](), set[Path]()
    for path, digest, told in recorded(results):
        if not path.is_file():
            missing.add(path)
            continue
        if path not in hashes:
            hashes[path] = sha256(path)
        if hashes[path] != digest:
            wrong.add(path)
            changed.append(f"{path}: {path.stat().st_size:,} bytes, not what {told} says")
    if not hashes and not missing:
        raise ValueError(f"{results}: no provenance.json below it, so there is nothing to compare with")
    return len(hashes) - len(wrong), changed, sorted(missing)


def main(results: Path = Path("results")) -> None:
    try:
        sound, changed, missing = verify(results)
    except (ValueError, OSError) as mistake:
        sys.exit(str(mistake))
    print("\n".join([*changed, f"{sound} files are as recorded, {len(missing)} are not here."]))
    sys.exit(1 if changed else 0)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
