"""Self-verification: how likely is the text, given the speech, to the model that spoke it? No other model is held."""

from __future__ import annotations

import numpy as np

from . import NO_LLASA, Own, Target, Verifier

ROWS_AT_ONCE = 16  # bounds memory on long candidates


class Likelihood(Verifier):
    """Mean log p(id of the text and its END | speech) in nats, by the recognition mode of the same Llasa.

    One forward pass reads every candidate. All candidates of one text have the same ids to explain, so the mean
    orders them as the sum does; unlike the sum it can be compared between texts.

    Raises:
        ValueError: a checkpoint that was never trained to recognise, or is not in this process; no codes given.
    """

    name, unit, low, high = "likelihood", "nats a text id", -20.0, 0.0
    judges_beginnings = False  # the text of what is still to be said would count against it

    def __init__(self, source: str | None = None, own: Own = NO_LLASA):
        if source or not own.read:
            raise ValueError(
                "The verifier 'likelihood' is the checkpoint's own recognition mode, "
                + ("and takes no other model." if source else "which this one was never trained for: take 'asr'.")
            )
        if own.model is None:
            raise ValueError("The verifier 'likelihood' needs the language model here, not on vLLM: take 'asr'.")
        self.source, self.own = "own", own

    def _load(self) -> None:
        pass

    def _score(self, waves, target: Target, codes: list[np.ndarray] | None) -> list[float]:
        import torch

        if codes is None:
            raise ValueError("The verifier 'likelihood' listens to codes: give those of each wave.")
        model, protocol = self.own.model, self.own.protocol
        allowed = torch.as_tensor(protocol.text_ids(), device=model.device)  # what the recognition mode chooses from
        written = set(allowed.tolist())  # an unknown character is not among them: nothing that is heard says it
        answer = [*(i for i in protocol.text_to_ids(target.text) if i in written), protocol.text_end]
        column = torch.searchsorted(allowed.sort().values, torch.tensor(answer, device=model.device))
        column = allowed.argsort()[column]  # where each id of the answer stands among the allowed
        scores: list[float] = []
        with torch.inference_mode():
            head = model.lm_head.weight[allowed]
            for start in range(0, len(codes), ROWS_AT_ONCE):
                prompts = [protocol.asr_prompt(one) for one in codes[start : start + ROWS_AT_ONCE]]
                # The padding comes last, where causal attention hides it: no mask, and the same score in any company.
                ids = torch.full((len(prompts), max(map(len, prompts)) + len(answer)), protocol.pad)
                for row, prompt in enumerate(prompts):
                    ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
                hidden = model.model(ids.to(model.device), use_cache=False).last_hidden_state  # (rows, t, hidden)
                for row, prompt in enumerate(prompts):
                    before = hidden[row, len(prompt) - 1 : len(prompt) - 1 + len(answer)]  # each sees what precedes it
                    logits = (before @ head.T).float().log_softmax(-1)  # (answer, allowed)
                    scores.append(logits.gather(1, column[:, None]).mean().item())
        return scores
