"""What several tests share: nano (loaded once), short waves, tiny Llamas, the real Llama 3 tokenizer. No network."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub: no test may reach for it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # a thread each, or workers side by side wait for each other's
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
# Weights of a recogniser of others, for the few tests that let it listen; they skip where it is not.
WHISPER = Path(os.environ.get("WHISPER", ROOT.parent / "shared" / "models" / "whisper-base"))

# The chat template of Llama 3.1 and 3.2 Instruct, without its part for tools.
LLAMA_3_TEMPLATE = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
# Written out here a second time on purpose: the released checkpoints fix them, not our code.
CARD_MARKERS = [
    f"<|{what}_{side}|>"
    for what in ("TEXT_GENERATION", "TEXT_UNDERSTANDING", "SPEECH_GENERATION", "SPEECH_UNDERSTANDING")
    for side in ("START", "END")
]


def pytest_configure(config):
    config.addinivalue_line("markers", "trained: holds for a trained nano only, not for any weights of its shape")


def buzz(seconds: float, rate: int = 16_000, seed: int = 0, pitch: float = 110) -> np.ndarray:
    """A voice-like wave (samples,) float32: a gliding pulse train through three resonances, in syllables."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(pitch + 30 * np.sin(2 * np.pi * 0.7 * time + seed)) / rate
    wav = np.zeros_like(time)
    for k in range(1, 60):
        resonances = random.uniform((300, 900, 2200), (800, 2000, 3200))  # Hz, drawn anew: a little breath in it
        loudness = np.exp(-(((pitch * k - resonances) / 180) ** 2)).sum()
        wav += (loudness + 0.02) * np.sin(k * phase) * (pitch * k < 0.45 * rate)
    wav *= 0.15 + np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)  # three syllables a second
    wav += 0.003 * random.standard_normal(len(time))
    return (0.7 * wav / np.abs(wav).max()).astype(np.float32)


@pytest.fixture(scope="session")
def nano():
    """The built-in checkpoint as users get it, in float32 on the CPU, so that laws can be exact."""
    from llasa_lite import Llasa

    return Llasa.from_pretrained(device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def codec(nano):
    return nano.codec


@pytest.fixture(scope="session")
def voice(nano):
    """A voice of 1.5 s with codes and transcript, which is not asked for what is heard in it."""
    from llasa_lite import Voice

    return nano.prepare(Voice.from_audio((16_000, buzz(1.5)), "hello there.", name="buzz").encoded(nano.codec))


@pytest.fixture(scope="session")
def tiny_llama():
    """Makes small random Llamas whose logits are far from flat: `tiny_llama(vocabulary, **config)`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(vocabulary: int = 100, seed: int = 0, **config):
        shape = dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **(shape | config))).eval()

    return make


LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,  # 8,192 in the release; small, so that the scaling bites in short tests
}


@pytest.fixture(scope="session")
def llama_3_tokenizer():
    """Llama 3's own tokenizer (PyPI `llama-models`) with what Llasa's authors added: 193,800 tokens."""
    package = importlib.util.find_spec("llama_models")
    if package is None:
        pytest.skip("the real Llama 3 tokenizer is not here: pip install llama-models")
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    tokenizer = TikTokenConverter(f"{package.submodule_search_locations[0]}/llama3/tokenizer.model").converted()
    special = [f"<|reserved_special_token_{i}|>" for i in range(256)]
    special[0], special[1] = "<|begin_of_text|>", "<|end_of_text|>"
    special[6:10] = "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    added = CARD_MARKERS + [f"<|s_{i}|>" for i in range(65_536)]
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in added])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|eot_id|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = LLAMA_3_TEMPLATE
    return fast


@pytest.fixture(scope="session")
def llama_3(llama_3_tokenizer):
    """The protocol of the released checkpoints."""
    from llasa_lite.tokens import Protocol

    return Protocol(llama_3_tokenizer)


@pytest.fixture(scope="session")
def speaker_folder(tmp_path_factory):
    """A small random WavLMForXVector with its feature extractor, as a folder: the shape of nano's own verifier."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("speaker")
    config = WavLMConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        tdnn_dim=(16, 16, 16, 16, 32),
        xvector_output_dim=16,
    )
    WavLMForXVector(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False, do_normalize=True).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """Where the app keeps the sounds and receipts that it hands out."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def server(tmp_path_factory, served):
    """`python app.py` in a process of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pytest.importorskip("gradio", reason="pip install gradio")
    folder = tmp_path_factory.mktemp("app")
    environment = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_TEMP_DIR": str(served)}
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / "app.py"], cwd=ROOT, env=os.environ | environment, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            assert process.poll() is None, (folder / "log.txt").read_text()
            try:
                urllib.request.urlopen(address, timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("the app did not answer: " + (folder / "log.txt").read_text())
        yield address
        assert "A request failed." not in (folder / "log.txt").read_text()  # how the app logs what it did not foresee
    finally:
        process.terminate()
        process.wait(30)
