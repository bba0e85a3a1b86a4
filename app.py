"""The app: `python app.py` serves it at http://127.0.0.1:7860; a Hugging Face Space needs nothing else either."""

from demo import LAUNCH, build

demo = build()

if __name__ == "__main__":
    demo.launch(**LAUNCH)
