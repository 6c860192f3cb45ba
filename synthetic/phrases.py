"""The wordings of every question; `{name}` and the like are filled in."""

PHRASES: dict[str, tuple[str, ...]] = {
    "description": (
        "What was shown?",
        "Tell me what the film shows.",
        "Name everything that was shown, in order.",
        "What can be seen in the video?",
    ),
    "which": (
        "Which {kind} was shown?",
        "Which {kind} was shown in the film?",
        "What {kind} appears in the video?",
        "A {kind} was shown in one frame. Which one?",
        "Name the {kind} that can be seen in the film.",
        "Can you tell me which {kind} appears?",
    ),
    "colour": (
        "Which colour was the card with {name}?",
        "What colour is the card that shows {name}?",
        "On a card of which colour was {name} shown?",
        "{name}: which colour was its card?",
        "Tell me the colour of the card with {name}.",
    ),
    "card": (
        "What was shown on the {colour} card?",
        "What does the {colour} card show?",
        "A {colour} card appears in the film. What is on it?",
        "Tell me what can be seen on the {colour} card.",
    ),
    "first": (
        "Which came first, {names}?",
        "Which of these was shown first: {names}?",
        "What did the film show first, {names}?",
        "Which one appears first: {names}?",
    ),
    "last": (
        "Which came last, {names}?",
        "Which of these was shown last: {names}?",
        "What did the film show last, {names}?",
        "Which one appears last: {names}?",
    ),
    "order": (
        "Put these in the order in which they were shown: {names}.",
        "In which order did these appear: {names}?",
        "Sort by time: {names}.",
        "Name these in the order of the film: {names}.",
    ),
    "often": (
        "How often was {name} shown?",
        "How many times was {name} shown?",
        "How often does {name} appear in the film?",
        "Count how many times {name} appears.",
    ),
    "many": (
        "How many {kinds} were shown?",
        "How many cards with {kinds} appear in the film?",
        "Count the {kinds} in the video.",
        "What is the number of {kinds} that were shown?",
    ),
    "part": (
        "In which part of the film was {name} shown?",
        "In which third of the video does {name} appear?",
        "Which third of the film shows {name}?",
        "Where in the film is {name}: in the first, middle or last third?",
    ),
    "when": (
        "About when was {name} shown, in per cent of the film?",
        "At how many per cent of the film does {name} appear?",
        "When was {name} shown? Answer in per cent.",
        "How far into the film is {name}, in per cent?",
    ),
    "advertisement": (
        "Is there an advertisement in it? What for?",
        "Is there an advertisement in the film? What for?",
        "Was an advertisement inserted, and for what?",
        "What does the film advertise, if anything?",
        "Does this video contain any inserted advertisement? What for?",
        "Which product is advertised?",
    ),
    "anomaly": (
        "What breaks the pattern of the film?",
        "Does anything break the pattern of the film? What?",
        "Is there a frame that does not belong? What is it?",
        "Something may be wrong with one frame. What does it show?",
    ),
    "anomaly_when": (
        "When does something break the pattern of the film?",
        "In which part of the film is the frame that does not belong?",
        "In which third is the broken frame?",
    ),
    "was": (
        "Was {name} shown?",
        "Was {name} shown in the film?",
        "Does {name} appear in the video?",
        "Can {name} be seen anywhere in the film?",
        "Is there a card with {name}?",
    ),
}
