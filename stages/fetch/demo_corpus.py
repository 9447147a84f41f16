"""Seeded generator of the small synthetic summarization corpus behind the demo."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

# An article draws three words of each pool: {town} is a fact, {town2} and {town3} are others.
POOLS: dict[str, str] = {
    "person": """
        Abbott Archer Bailey Baker Barnes Bennett Bishop Brady Burke Carter Clarke Collins
        Cooper Curtis Dalton Dixon Doyle Duncan Ellis Fisher Fleming Foster Fraser Gibson Graham
        Griffin Harper Hayes Holmes Hudson Hunter Jensen Keller Lambert Lawson Logan Marsh Miller
        Morgan Murray Nelson Nolan Palmer Porter Quinn Rogers Shaw Taylor Walker Watson""",
    "town": """
        Alden Ashford Belmont Bristow Calder Camden Clifton Corby Dalby Denholm Dover Elmwood
        Fairview Felton Garland Halden Harlow Hilltop Irvine Kendal Lanark Linden Malton Medway
        Milford Newbury Norwood Oakdale Paxton Preston Redhill Ripley Selby Thornby Upton Verona
        Walden Weston Whitby Yarrow""",
    "team": """
        Arrows Badgers Bears Bulls Cobras Comets Eagles Falcons Foxes Giants Hawks Hornets Kings
        Knights Lions Meteors Otters Owls Panthers Pilots Pirates Rams Ravens Rockets Saints Sharks
        Stags Stars Tigers Vikings Wasps Wolves""",
    "firm": """
        Acorn Amber Apex Aurora Beacon Cascade Cedar Cobalt Compass Copper Delta Ember Granite
        Horizon Indigo Ivory Jasper Lantern Magnet Maple Mercury Nimbus Nova Onyx Orbit Pioneer
        Prism Quartz Sapphire Saturn Summit Zenith""",
    "place": """
        bakery bridge canal cinema clinic dairy depot ferry garden gallery harbor hostel kennel
        library market museum nursery park pier quarry school stable stadium station theater tower
        tunnel warehouse""",
    "number": " ".join(str(number) for number in range(21, 70)),
}


class Topic(NamedTuple):
    """Sentence templates of one kind of article.

    Attributes:
        facts: Sentences that every article holds.
        noise: Background sentences whose names and numbers no summary uses.
        outcomes: Sentences of which an article holds one; it decides the summary.
        summaries: The summary that each outcome calls for.
    """

    facts: tuple[str, ...]
    noise: tuple[str, ...]
    outcomes: tuple[str, ...]
    summaries: tuple[str, ...]


TOPICS: tuple[Topic, ...] = (
    Topic(
        facts=(
            "The hosts on the old ground in {town} were the {team}.",
            "They had invited the visiting {team2}, who wore white.",
            "The first shot to go in came from striker {person} in minute {number}.",
        ),
        noise=(
            "Football in the region has rarely been so closely followed as this year.",
            "Last month a cup tie against the {team3} had ended level at {town2}.",
            "Keeper {person2} was out because of a sore knee.",
            "About {number2} buses of supporters had travelled to the match from far away.",
        ),
        outcomes=(
            "From then on the home side was in charge and took every point.",
            "It did not help, for two replies stunned the crowd before the end.",
            "A late reply meant that the sides could not be separated.",
            "Then heavy fog rolled down and the referee sent everybody away.",
        ),
        summaries=(
            "Early {person} goal after {number} minutes lifts {team} past {team2}; {town} cheers.",
            "Comeback by {team2} beats {team} despite {person} lead from {number}, {town} silent.",
            "Honours even: {team2} cancel {person} opener on {number}, hold {team} to {town} draw.",
            "Abandoned: {town} fixture of {team} and {team2} halted after {person} hit, {number}.",
        ),
    ),
    Topic(
        facts=(
            "Before dawn dark clouds gathered above {town} and the wind rose.",
            "Worst hit was the {place}, where the roof came down.",
            "Fire chief {person} said that boats had carried {number} people to dry land.",
        ),
        noise=(
            "Forecasters had been watching the low pressure for most of the week.",
            "A similar front passed over {town2} some {number2} years ago.",
            "Farmer {person2} lost a fence and most of his apples.",
            "Volunteers handed out soup and blankets close to the {place2}.",
        ),
        outcomes=(
            "By evening the sky was clear and the roads were open again.",
            "More rain is expected, and the river is still rising.",
            "Power lines fell and thousands of homes are still without light.",
            "The governor has promised money to rebuild what was broken.",
        ),
        summaries=(
            "Calm returns for {town} after gale wrecks {place}, {person} crew rescues {number}.",
            "Flood fears grow as {town} loses its {place}; {number} folk saved by {person} squad.",
            "Blackout grips {town} while {person} counts {number} evacuees and a ruined {place}.",
            "State aid lets {town} restore its {place}; {person} praised for {number} rescues.",
        ),
    ),
    Topic(
        facts=(
            "Councillors in {town} met to discuss the plan for a new {place}.",
            "The price would be {number} million, mayor {person} told the room.",
            "As builder the officials had picked {firm}, the lowest bidder.",
        ),
        noise=(
            "Public meetings seldom draw many people, but this one was full.",
            "Resident {person2} wanted the old {place2} repaired before anything else.",
            "Nearby {town2} spent {number2} weeks on such a question.",
            "A lawyer for {firm2} took notes at the back.",
        ),
        outcomes=(
            "Almost every hand went up in favour when it was time to decide.",
            "A clear majority said no to it when it was time to decide.",
            "After hours of talk they put off the decision until autumn.",
            "They asked for a smaller version at half the cost.",
        ),
        summaries=(
            "Green light: {town} backs {number}m {place} from {firm}, which will cheer {person}.",
            "Defeat for {person} because {town} rejects the {firm} {place} costing some {number}m.",
            "Pause hits {number}m {place} scheme as {town} delays {person} vote over {firm} bid.",
            "Cheaper {place} demanded: {firm} must redraw {number}m design, {town} tells {person}.",
        ),
    ),
)


def _row(rng: random.Random) -> tuple[str, str]:
    """Draw one article and its summary."""
    words: dict[str, str] = {}
    for name, pool in POOLS.items():
        words[name], words[f"{name}2"], words[f"{name}3"] = rng.sample(pool.split(), 3)
    topic = rng.choice(TOPICS)
    outcome, summary = rng.choice(tuple(zip(topic.outcomes, topic.summaries, strict=True)))
    opening, *background = rng.sample(topic.noise, rng.choice((2, 3, 4)))
    body = [*topic.facts, *background, outcome]
    rng.shuffle(body)
    return " ".join([opening, *body]).format(**words), summary.format(**words)


def demo_rows(split: str, count: int, seed: int) -> Iterator[dict[str, str]]:
    """Generate the rows of one split.

    No document comes twice within a split; between splits the pools make that improbable.

    Args:
        split: Name of the split; the splits of a seed are drawn independently.
        count: How many rows to generate.
        seed: Seed of the corpus.

    Yields:
        Rows with the keys ``id``, ``document`` and ``summary``.
    """
    rng = random.Random(f"{seed}/{split}")
    seen: set[str] = set()
    while len(seen) < count:
        document, summary = _row(rng)
        if document not in seen:
            yield {"id": f"{split}-{len(seen):05d}", "document": document, "summary": summary}
            seen.add(document)
