"""SentencePiece's BPE vocabulary, with scores, as one of ranked merges."""

SPACE = "\u2581"  # stands for a space in pieces
_NORMAL, _USER_DEFINED, _UNUSED = 1, 4, 5  # token types that may take part in merges


def spelled(tokens: list[str], types: list[int]) -> list[str]:
    """Returns the pieces as the vocabulary of tokenizer.json spells them.

    llama.cpp's conversion writes runs of spaces that a vocabulary defines (Gemma's) as spaces.
    """
    return [
        token.replace(" ", SPACE) if kind == _USER_DEFINED and not token.strip(" ") else token
        for token, kind in zip(tokens, types, strict=True)
    ]


def merges(pieces: list[str], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """Returns the pairs of pieces that make a piece, those of the highest score first.

    SentencePiece joins the neighbours whose piece has the highest score; a BPE with merges joins
    those whose pair comes first. Where a piece can be made of several pairs, these keep the order
    of their parts' ids, as in the conversion of transformers.
    """
    taking_part = {
        piece: i
        for i, (piece, kind) in enumerate(zip(pieces, types, strict=True))
        if kind in (_NORMAL, _USER_DEFINED, _UNUSED)
    }
    ranked = []
    for piece, i in taking_part.items():
        for cut in range(1, len(piece)):
            left, right = taking_part.get(piece[:cut]), taking_part.get(piece[cut:])
            if left is not None and right is not None:
                ranked.append((-scores[i], left, right))
    ranked.sort()
    return [(pieces[left], pieces[right]) for _, left, right in ranked]
