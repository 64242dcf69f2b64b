"""`python -m npr_kernels.info`: :func:`npr_kernels.info` as JSON, for bug reports."""

import json

from npr_kernels.installation import info

if __name__ == "__main__":
    print(json.dumps(info(), indent=2))
