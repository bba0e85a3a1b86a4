"""The app: `python app.py` opens it in the browser; as the app file of a Hugging Face Space it needs nothing else."""

from demo import LAUNCH, build

demo = build()

if __name__ == "__main__":
    demo.launch(**LAUNCH)
