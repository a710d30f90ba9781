"""Carousel's translator in PyTorch, as its users write one; its parameters have Carousel's names.

A packed bidirectional encoder, a bridge, a decoder that reads all of a target in one call, scaled general attention
(Luong et al. 2015) masked by real lengths, and a batched beam search.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

PAD, UNK, SOS, EOS = range(4)
CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


class Side(nn.Module):
    """A recurrent stack under the name that Carousel gives it."""

    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent


class Attention(nn.Module):
    def __init__(self, hidden, states):
        super().__init__()
        self.query = nn.Parameter(torch.empty(states, hidden).uniform_(-1, 1) / hidden**0.5)

    def forward(self, steps, states, mask):
        """What steps [B, T, H] read of states [B, S, E], where the mask [B, S] holds."""
        scores = (steps @ self.query.T) @ states.transpose(1, 2) / steps.shape[-1] ** 0.5
        weights = scores.masked_fill(~mask[:, None, :], float("-inf")).softmax(-1)
        return weights @ states


class Translator(nn.Module):
    def __init__(self, cell, vocabularies, embedding, hidden, layers=1):
        super().__init__()
        self.cell, self.hidden, self.layers = cell, hidden, layers
        self.source = nn.Embedding(vocabularies[0], embedding)
        self.target = nn.Embedding(vocabularies[1], embedding)
        module = CELLS[cell]
        self.encoder = Side(module(embedding, hidden, layers, batch_first=True, bidirectional=True))
        self.decoder = Side(module(embedding, hidden, layers, batch_first=True))
        bridges = layers * (2 if cell == "lstm" else 1)
        self.bridge = nn.ModuleList(nn.ModuleList([nn.Linear(2 * hidden, hidden)]) for _ in range(bridges))
        self.attention = Attention(hidden, 2 * hidden)
        self.combine = nn.ModuleList([nn.Linear(3 * hidden, hidden)])
        self.output = nn.Linear(hidden, vocabularies[1])

    def encode(self, sources, lengths):
        packed = pack_padded_sequence(self.source(sources), lengths, batch_first=True, enforce_sorted=False)
        states, last = self.encoder.recurrent(packed)
        states, _ = pad_packed_sequence(states, batch_first=True)
        parts = last if self.cell == "lstm" else [last]
        # Of each layer both directions side by side; bridges stand layer by layer.
        sides = [part.view(self.layers, 2, *part.shape[1:]).transpose(1, 2).flatten(2) for part in parts]
        bridged = [
            torch.stack([torch.tanh(self.bridge[layer * len(parts) + place][0](side[layer])) for layer in range(self.layers)])
            for place, side in enumerate(sides)
        ]
        mask = torch.arange(states.shape[1]) < lengths[:, None]
        return states, mask, tuple(bridged) if self.cell == "lstm" else bridged[0]

    def decode(self, tokens, state, states, mask):
        """Scores after tokens [B, T], and the state."""
        y, state = self.decoder.recurrent(self.target(tokens), state)
        context = self.attention(y, states, mask)
        return self.output(torch.tanh(self.combine[0](torch.cat([context, y], -1)))), state

    def forward(self, sources, lengths, targets):
        """The mean loss of the targets' tokens, teacher-forced."""
        states, mask, state = self.encode(sources, lengths)
        scores, _ = self.decode(targets[:, :-1], state, states, mask)
        return cross_entropy(scores.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=PAD)


def padded(sentences):
    """Sentences as one tensor, and their lengths."""
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    return pad_sequence([torch.as_tensor(sentence) for sentence in sentences], batch_first=True, padding_value=PAD), lengths


def beam_search(model, sources, lengths, beam, most, step=None):
    """The best translation of each source, at most so many tokens long (one number each, or for all); hypotheses that
    have ended are compared by their mean."""
    step = step or model.decode
    most = torch.as_tensor(most).expand(len(sources))
    count, vocabulary = len(sources), model.output.out_features
    states, mask, state = model.encode(sources, lengths)
    rows = torch.arange(count).repeat_interleave(beam)
    states, mask = states[rows], mask[rows]
    each = (lambda change, state: tuple(map(change, state)) if isinstance(state, tuple) else change(state))
    state = each(lambda part: part[:, rows].contiguous(), state)
    # At first the hypotheses of a sentence are one.
    sums = torch.full((count, beam), float("-inf"))
    sums[:, 0] = 0.0
    tokens = torch.full((count * beam, 1), SOS)
    written = torch.empty(count, beam, 0, dtype=torch.long)
    done = torch.zeros(count, beam, dtype=torch.bool)
    places = torch.ones(count, beam)
    first = (torch.arange(count) * beam)[:, None]
    stays = torch.full((vocabulary,), float("-inf"))
    stays[EOS] = 0.0
    for place in range(int(most.max()) + 1):
        scores, state = step(tokens, state, states, mask)
        scores = scores[:, -1].log_softmax(-1).view(count, beam, vocabulary)
        scores[:, :, [PAD, SOS]] = float("-inf")
        full = most == place
        if full.any():
            scores[full, :, :EOS] = scores[full, :, EOS + 1 :] = float("-inf")
        scores = torch.where(done[:, :, None], stays, scores)
        # A hypothesis that has ended keeps its place.
        totals = (sums[:, :, None] + scores).flatten(1)
        chosen = (totals + (done * 1e6).repeat_interleave(vocabulary, 1)).topk(beam)[1]
        sums = totals.gather(1, chosen)
        origin, token = chosen // vocabulary, chosen % vocabulary
        written = torch.cat([written.gather(1, origin[:, :, None].expand(-1, -1, place)), token[:, :, None]], 2)
        done, places = done.gather(1, origin), places.gather(1, origin)
        places = torch.where(done, places, places * 0 + place + 1)
        done = done | (token == EOS)
        if done.all():
            break
        rows = (first + origin).flatten()
        state = each(lambda part: part[:, rows].contiguous(), state)
        tokens = token.view(-1, 1)
    best = (sums / places).argmax(1)
    return written[torch.arange(count), best]
