"""The app: `python app.py` serves it at http://127.0.0.1:7860; a Hugging Face Space needs nothing else either."""

from argparse import ArgumentParser

from demo import LAUNCH, build

demo = build()

if __name__ == "__main__":
    ArgumentParser(description=__doc__, epilog="Another model, host or port: llasa-lite demo --help").parse_args()
    demo.launch(**LAUNCH)
