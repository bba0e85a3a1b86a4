"""The app with nano, which ships inside: two CPU cores suffice, and nothing is downloaded."""

from llasa_lite.demo import LAUNCH, build

demo = build()

if __name__ == "__main__":
    demo.launch(**LAUNCH)
