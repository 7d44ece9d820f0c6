"""The figures of the upper layer protocol machine, drawn from :mod:`dicomnode.core.machine`.

Two: :func:`grid`, PS3.8 Table 9-10 as a table of HTML, every cell of it; and :func:`diagram`, its
states and transitions as SVG. Only the places of things on the page are written here: what is drawn
comes from the table, and a transition without a place is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import NamedTuple

from dicomnode.core.machine import ACTIONS, ARTIM_STATES, TRANSITIONS, Effect, Event, Role, State, step

#: What the states wait for, in the few words that fit a box.
WAITS = {
    State.STA1: "idle",
    State.STA2: "for A-ASSOCIATE-RQ",
    State.STA3: "for local response",
    State.STA4: "for the connection",
    State.STA5: "for A-ASSOCIATE-AC, -RJ",
    State.STA6: "association established",
    State.STA7: "for A-RELEASE-RP",
    State.STA8: "for local response",
    State.STA9: "for local response",
    State.STA10: "for A-RELEASE-RP",
    State.STA11: "for A-RELEASE-RP",
    State.STA12: "for local response",
    State.STA13: "for the close",
}

#: What happens, in the words of Table 9-10.
EVENTS = {
    Event.ASSOCIATE_REQUEST: "A-ASSOCIATE request (local user)",
    Event.TRANSPORT_OPENED: "transport connect confirmation",
    Event.ASSOCIATE_AC: "A-ASSOCIATE-AC received",
    Event.ASSOCIATE_RJ: "A-ASSOCIATE-RJ received",
    Event.TRANSPORT_INDICATION: "transport connect indication",
    Event.ASSOCIATE_RQ: "A-ASSOCIATE-RQ received",
    Event.ASSOCIATE_ACCEPT: "A-ASSOCIATE response, accept",
    Event.ASSOCIATE_REJECT: "A-ASSOCIATE response, reject",
    Event.P_DATA_REQUEST: "P-DATA request (local user)",
    Event.P_DATA_TF: "P-DATA-TF received",
    Event.RELEASE_REQUEST: "A-RELEASE request (local user)",
    Event.RELEASE_RQ: "A-RELEASE-RQ received",
    Event.RELEASE_RP: "A-RELEASE-RP received",
    Event.RELEASE_RESPONSE: "A-RELEASE response (local user)",
    Event.ABORT_REQUEST: "A-ABORT request (local user)",
    Event.ABORT: "A-ABORT received",
    Event.TRANSPORT_CLOSED: "transport connection closed",
    Event.ARTIM_EXPIRED: "ARTIM expired",
    Event.INVALID_PDU: "unrecognized or invalid PDU",
}

_EFFECTS = {
    Effect.SEND: "send the PDU",
    Effect.INDICATE: "indicate it to the user",
    Effect.ABORT: "send A-ABORT",
    Effect.P_ABORT: "indicate A-P-ABORT",
}


def does(action: str) -> str:
    """Say what an action does, and where it leads."""
    effect, following = ACTIONS[action]
    said = [words for flag, words in _EFFECTS.items() if flag in effect]
    state = "Sta9 or Sta10" if action == "AR-8" else name(following)
    return f"{action}: {', '.join([*said, f'next state {state}'])}"


def name(state: State) -> str:
    """Return a state's name as the standard writes it."""
    return f"Sta{state.value}"


def family(action: str) -> str:
    """Return the class by which an action is coloured: that of Tables 9-6 to 9-9."""
    return action[:2].lower()


# The table


def grid() -> str:
    """Return Table 9-10 in HTML: a row for each event, a column for each state."""
    head = "".join(f'<th scope="col" title="{escape(WAITS[state])}">{name(state)}</th>' for state in State)
    rows = [f'<tr><th scope="col" class="event">Event</th>{head}</tr>']
    for event in Event:
        cells = []
        for state in State:
            action = TRANSITIONS.get((event, state))
            if action is None:
                cells.append("<td></td>")
            else:
                title = escape(f"{name(state)}, Evt{event.value}. {does(action)}")
                cells.append(f'<td class="{family(action)}" title="{title}">{action}</td>')
        words = f"<b>Evt{event.value}</b> {escape(EVENTS[event])}"
        rows.append(f'<tr><th scope="row" class="event">{words}</th>{"".join(cells)}</tr>')
    caption = "PS3.8 Table 9-10, from the source. What a cell does is shown when the pointer rests on it."
    table = f"<table><caption>{caption}</caption>{''.join(rows)}</table>"
    return f'<div class="machine machine-grid">{table}{_legend()}</div>'


def _legend() -> str:
    families = {
        "ae": "AE association establishment",
        "dt": "DT data transfer",
        "ar": "AR association release",
        "aa": "AA association abort",
    }
    return "<p>" + " ".join(f'<span class="{key}">{words}</span>' for key, words in families.items()) + "</p>"


# The diagram

WIDTH, HEIGHT = 820, 960
BOX_WIDTH, BOX_HEIGHT = 172, 78

#: The middle of a box's upper edge. Sta1 is there twice, where it begins and where it ends.
PLACES: dict[str, tuple[int, int]] = {
    "Sta1": (400, 10),
    "Sta4": (215, 135),
    "Sta2": (585, 135),
    "Sta5": (215, 260),
    "Sta3": (585, 260),
    "Sta6": (400, 385),
    "Sta7": (215, 510),
    "Sta8": (585, 510),
    "Sta9": (130, 635),
    "Sta10": (335, 635),
    "Sta11": (130, 760),
    "Sta12": (335, 760),
    "Sta13": (585, 760),
    "end": (400, 875),
}


class Edge(NamedTuple):
    """A line from one box to another, by these points; and where its label stands."""

    points: tuple[tuple[int, int], ...]
    label: tuple[int, int]
    anchor: str = "middle"


def _below(place: str, shift: int = 0) -> tuple[int, int]:
    x, y = PLACES[place]
    return x + shift, y + BOX_HEIGHT


def _above(place: str, shift: int = 0) -> tuple[int, int]:
    x, y = PLACES[place]
    return x + shift, y


def _left(place: str, y: int) -> tuple[int, int]:
    return PLACES[place][0] - BOX_WIDTH // 2, PLACES[place][1] + y


def _right(place: str, y: int) -> tuple[int, int]:
    return PLACES[place][0] + BOX_WIDTH // 2, PLACES[place][1] + y


def _straight(start: tuple[int, int], end: tuple[int, int], dx: int = 8, anchor: str = "start") -> Edge:
    middle = ((start[0] + end[0]) // 2 + dx, (start[1] + end[1]) // 2 + 4)
    return Edge((start, end), middle, anchor)


def _loop(place: str) -> Edge:
    x, y = _right(place, 0)
    return Edge(((x, y + 22), (x + 26, y + 22), (x + 26, y + 56), (x, y + 56)), (x + 32, y + 36), "start")


def _lane(start: tuple[int, int], x: int, end: tuple[int, int], label: tuple[int, int], anchor: str) -> Edge:
    return Edge((start, (x, start[1]), (x, end[1]), end), label, anchor)


#: Where the transitions run. Aborts are not lines: they are listed in the box that they leave.
EDGES: dict[tuple[str, str], Edge] = {
    ("Sta1", "Sta4"): _straight(_below("Sta1", -40), _above("Sta4", 30), -8, "end"),
    ("Sta1", "Sta2"): _straight(_below("Sta1", 40), _above("Sta2", -30)),
    ("Sta4", "Sta5"): _straight(_below("Sta4"), _above("Sta5")),
    ("Sta2", "Sta3"): _straight(_below("Sta2"), _above("Sta3")),
    ("Sta5", "Sta6"): _straight(_below("Sta5", 30), _above("Sta6", -40), 14),
    ("Sta3", "Sta6"): _straight(_below("Sta3", -30), _above("Sta6", 40), -14, "end"),
    ("Sta5", "end"): _lane(_left("Sta5", 39), 12, _left("end", 58), (18, 420), "start"),
    ("Sta2", "Sta13"): _lane(_right("Sta2", 39), 808, _right("Sta13", 58), (806, 166), "end"),
    ("Sta3", "Sta13"): _lane(_right("Sta3", 39), 750, _right("Sta13", 22), (744, 420), "end"),
    ("Sta6", "Sta6"): _loop("Sta6"),
    ("Sta6", "Sta7"): _straight(_below("Sta6", -40), _above("Sta7", 30), -14, "end"),
    ("Sta6", "Sta8"): _straight(_below("Sta6", 40), _above("Sta8", -30), 14),
    ("Sta7", "Sta7"): _loop("Sta7"),
    ("Sta7", "Sta9"): _straight(_below("Sta7", -40), _above("Sta9", -20), 8),
    ("Sta7", "Sta10"): _straight(_below("Sta7", 50), _above("Sta10", 0), 12),
    ("Sta7", "end"): _lane(_left("Sta7", 39), 30, _left("end", 40), (36, 620), "start"),
    ("Sta8", "Sta8"): _loop("Sta8"),
    ("Sta8", "Sta13"): _straight(_below("Sta8"), _above("Sta13")),
    ("Sta9", "Sta11"): _straight(_below("Sta9"), _above("Sta11")),
    ("Sta10", "Sta12"): _straight(_below("Sta10"), _above("Sta12")),
    ("Sta11", "end"): Edge((_below("Sta11"), (130, 897), _left("end", 22)), (138, 889), "start"),
    ("Sta12", "Sta13"): Edge((_right("Sta12", 39), _left("Sta13", 39)), (460, 794)),
    ("Sta13", "end"): Edge((_below("Sta13"), (585, 915), _right("end", 40)), (577, 907), "end"),
}


def transitions() -> dict[tuple[str, str], list[str]]:
    """Return what is drawn as lines: from box to box, the labels of the transitions that are no aborts."""
    found: dict[tuple[str, str], list[str]] = {}
    for event, state in TRANSITIONS:
        for role in Role:
            action, _, following = step(state, event, role)
            if family(action) == "aa":
                continue
            box = "end" if following is State.STA1 else name(following)
            labels = found.setdefault((name(state), box), [])
            label = f"Evt{event.value} / {action}"
            if label not in labels:
                labels.append(label)
    # The other outcome of AE-6, which the core takes where the protocol version lacks bit 0.
    found["Sta2", "Sta13"] = [f"Evt{Event.ASSOCIATE_RQ.value} / AE-6 (refused)"]
    return found


def aborts(state: State) -> dict[State, list[str]]:
    """Return the actions of Table 9-9 that leave a state: by the state that they lead to."""
    found: dict[State, list[str]] = {}
    for (_, before), action in TRANSITIONS.items():
        if before is state and family(action) == "aa":
            actions = found.setdefault(ACTIONS[action][1], [])
            if action not in actions:
                actions.append(action)
    return {following: sorted(actions) for following, actions in found.items()}


def diagram() -> str:
    """Return the states and the transitions between them as SVG."""
    drawn = [_line(edge, labels) for edge, labels in transitions().items()]
    boxes = [_box(name(state), state) for state in State]
    boxes.append(_box("end", State.STA1))
    title = "States and transitions of the upper layer protocol machine"
    marker = (
        '<defs><marker id="machine-arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 10 5 0 10z" class="arrow"/></marker></defs>'
    )
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}" '
        f'xmlns="http://www.w3.org/2000/svg">{marker}{"".join(drawn)}{"".join(boxes)}</svg>'
    )
    return f'<div class="machine machine-diagram">{svg}</div>'


def _line(ends: tuple[str, str], labels: list[str]) -> str:
    edge = EDGES[ends]
    points = " ".join(f"{x},{y}" for x, y in edge.points)
    x, y = edge.label
    kind = family(labels[0].split(" / ")[1])
    lines = [f'<polyline points="{points}" class="edge {kind}" marker-end="url(#machine-arrow)"/>']
    for index, label in enumerate(labels):
        where = f'x="{x}" y="{y + 14 * index}" text-anchor="{edge.anchor}"'
        lines.append(f'<text {where} class="label">{label}</text>')
    return "".join(lines)


def _box(place: str, state: State) -> str:
    x, y = PLACES[place]
    artim = state in ARTIM_STATES
    again = " again" if place == "end" else ""
    timer = " · ARTIM" if artim else ""
    lines = [
        f'<rect x="{x - BOX_WIDTH // 2}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" '
        f'class="state{" timed" if artim else ""}"/>',
        f'<text x="{x}" y="{y + 18}" text-anchor="middle" class="name">{name(state)}{again}{timer}</text>',
        f'<text x="{x}" y="{y + 34}" text-anchor="middle" class="waits">{WAITS[state]}</text>',
    ]
    if place != "end":
        for index, (following, actions) in enumerate(sorted(aborts(state).items())):
            text = f"{', '.join(actions)} → {name(following)}"
            where = f'x="{x}" y="{y + 52 + 15 * index}" text-anchor="middle"'
            lines.append(f'<text {where} class="abort">{text}</text>')
    return "".join(lines)


GENERATED: dict[str, Callable[[], str]] = {"machine-grid": grid, "machine-diagram": diagram}
