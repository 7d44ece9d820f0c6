"""Tests of :mod:`dicomnode.core.machine`: the protocol machine of PS3.8 9.2."""

# mypy: allow-untyped-calls
# (trial's assertions are not annotated)

from __future__ import annotations

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from dicomnode.core.machine import (
    ACTIONS,
    ARTIM_STATES,
    TABLE_9_10,
    TRANSITIONS,
    Effect,
    Event,
    Role,
    State,
    step,
)

#: Table 9-10 once more, read by event: each action, and the states in which the event calls for it.
BY_EVENT = {
    # Evt1 to Evt5: A-ASSOCIATE request, transport confirmation, A-ASSOCIATE-AC, -RJ, transport indication
    Event.ASSOCIATE_REQUEST: {"AE-1": "1"},
    Event.TRANSPORT_OPENED: {"AE-2": "4"},
    Event.ASSOCIATE_AC: {"AE-3": "5", "AA-1": "2", "AA-6": "13", "AA-8": "3 6 7 8 9 10 11 12"},
    Event.ASSOCIATE_RJ: {"AE-4": "5", "AA-1": "2", "AA-6": "13", "AA-8": "3 6 7 8 9 10 11 12"},
    Event.TRANSPORT_INDICATION: {"AE-5": "1"},
    # Evt6 to Evt8: A-ASSOCIATE-RQ, A-ASSOCIATE response accept, reject
    Event.ASSOCIATE_RQ: {"AE-6": "2", "AA-7": "13", "AA-8": "3 5 6 7 8 9 10 11 12"},
    Event.ASSOCIATE_ACCEPT: {"AE-7": "3"},
    Event.ASSOCIATE_REJECT: {"AE-8": "3"},
    # Evt9 and Evt10: P-DATA request, P-DATA-TF
    Event.P_DATA_REQUEST: {"DT-1": "6", "AR-7": "8"},
    Event.P_DATA_TF: {"DT-2": "6", "AR-6": "7", "AA-1": "2", "AA-6": "13", "AA-8": "3 5 8 9 10 11 12"},
    # Evt11 to Evt14: A-RELEASE request, A-RELEASE-RQ, A-RELEASE-RP, A-RELEASE response
    Event.RELEASE_REQUEST: {"AR-1": "6"},
    Event.RELEASE_RQ: {"AR-2": "6", "AR-8": "7", "AA-1": "2", "AA-6": "13", "AA-8": "3 5 8 9 10 11 12"},
    Event.RELEASE_RP: {"AR-3": "7 11", "AR-10": "10", "AA-1": "2", "AA-6": "13", "AA-8": "3 5 6 8 9 12"},
    Event.RELEASE_RESPONSE: {"AR-4": "8 12", "AR-9": "9"},
    # Evt15 and Evt16: A-ABORT request, A-ABORT
    Event.ABORT_REQUEST: {"AA-1": "3 5 6 7 8 9 10 11 12", "AA-2": "4"},
    Event.ABORT: {"AA-2": "2 13", "AA-3": "3 5 6 7 8 9 10 11 12"},
    # Evt17 to Evt19: transport closed, ARTIM expired, unrecognized or invalid PDU
    Event.TRANSPORT_CLOSED: {"AA-4": "3 4 5 6 7 8 9 10 11 12", "AA-5": "2", "AR-5": "13"},
    Event.ARTIM_EXPIRED: {"AA-2": "2 13"},
    Event.INVALID_PDU: {"AA-1": "2", "AA-7": "13", "AA-8": "3 5 6 7 8 9 10 11 12"},
}

#: Tables 9-6 to 9-9 in few words: what each action does, and the next state.
STEPS = {
    "AE-1": "connect transport -> Sta4",
    "AE-2": "send A-ASSOCIATE-RQ -> Sta5",
    "AE-3": "confirm A-ASSOCIATE (accept) -> Sta6",
    "AE-4": "confirm A-ASSOCIATE (reject), close transport -> Sta1",
    "AE-5": "accept transport, start ARTIM -> Sta2",
    "AE-6": "stop ARTIM, indicate A-ASSOCIATE -> Sta3",
    "AE-7": "send A-ASSOCIATE-AC -> Sta6",
    "AE-8": "send A-ASSOCIATE-RJ, start ARTIM -> Sta13",
    "DT-1": "send P-DATA-TF -> Sta6",
    "DT-2": "indicate P-DATA -> Sta6",
    "AR-1": "send A-RELEASE-RQ -> Sta7",
    "AR-2": "indicate A-RELEASE -> Sta8",
    "AR-3": "confirm A-RELEASE, close transport -> Sta1",
    "AR-4": "send A-RELEASE-RP, start ARTIM -> Sta13",
    "AR-5": "stop ARTIM -> Sta1",
    "AR-6": "indicate P-DATA -> Sta7",
    "AR-7": "send P-DATA-TF -> Sta8",
    "AR-8": "indicate A-RELEASE (collision) -> Sta9",
    "AR-9": "send A-RELEASE-RP -> Sta11",
    "AR-10": "confirm A-RELEASE -> Sta12",
    "AA-1": "send A-ABORT (user), start ARTIM -> Sta13",
    "AA-2": "stop ARTIM, close transport -> Sta1",
    "AA-3": "indicate A-ABORT (or A-P-ABORT, as received), close transport -> Sta1",
    "AA-4": "indicate A-P-ABORT -> Sta1",
    "AA-5": "stop ARTIM -> Sta1",
    "AA-6": "ignore PDU -> Sta13",
    "AA-7": "send A-ABORT -> Sta13",
    "AA-8": "send A-ABORT (provider), indicate A-P-ABORT, start ARTIM -> Sta13",
}

#: The branches of AE-6 (the provider does not accept) and AR-8 (not the association's requestor).
AE_6_UNACCEPTABLE = "stop ARTIM, send A-ASSOCIATE-RJ, start ARTIM -> Sta13"
AR_8_ACCEPTOR = "indicate A-RELEASE (collision) -> Sta10"

CELLS = tuple(product(Event, State))


def parse(text: str) -> tuple[list[str], State]:
    """Return what an action does, and the state it leads to."""
    does, _, following = text.partition(" -> Sta")
    return does.split(", "), State(int(following))


def effect_of(does: list[str]) -> Effect:
    """Return the flags that say the same."""
    effect = Effect.NONE
    for deed in does:
        verb, what = deed.split()[:2]
        if verb == "send":
            effect |= Effect.ABORT if what == "A-ABORT" else Effect.SEND
        elif verb in ("indicate", "confirm"):
            effect |= Effect.P_ABORT if what == "A-P-ABORT" else Effect.INDICATE
    return effect


def second_transcription() -> dict[tuple[Event, State], str]:
    return {
        (event, State(int(number))): action
        for event, actions in BY_EVENT.items()
        for action, numbers in actions.items()
        for number in numbers.split()
    }


class TableTests(SynchronousTestCase):
    """Table 9-10, against a second transcription."""

    def test_events_are_numbered_as_printed(self) -> None:
        """Evt1 to Evt19 are the events' values, in the standard's order."""
        self.assertEqual([event.value for event in BY_EVENT], list(range(1, 20)))
        self.assertEqual(list(BY_EVENT), list(Event))

    def test_states_are_numbered_as_printed(self) -> None:
        """Sta1 to Sta13 are the states' values."""
        self.assertEqual([f"STA{number}" for number in range(1, 14)], [state.name for state in State])
        self.assertEqual(list(range(1, 14)), [state.value for state in State])

    def test_each_cell(self) -> None:
        """All 247 cells, the 124 empty ones included, are as transcribed here."""
        expected = second_transcription()
        self.assertEqual(len(CELLS), 19 * 13)
        for cell in CELLS:
            self.assertEqual(TRANSITIONS.get(cell), expected.get(cell), cell)

    def test_filled_cells(self) -> None:
        """123 cells are filled, and none lies outside the table."""
        self.assertEqual(len(TRANSITIONS), 123)
        self.assertLessEqual(set(TRANSITIONS), set(CELLS))

    def test_transcriptions_do_not_overlap(self) -> None:
        """The second transcription names each cell once."""
        named = [numbers for actions in BY_EVENT.values() for numbers in actions.values()]
        self.assertEqual(sum(len(numbers.split()) for numbers in named), len(second_transcription()))

    def test_printed_table_is_rectangular(self) -> None:
        """The literal has nineteen rows, and in each a word for each of thirteen states."""
        head, *rows = (line.split() for line in TABLE_9_10.strip().splitlines())
        self.assertEqual(head, [f"Sta{number}" for number in range(1, 14)])
        self.assertEqual([row[0] for row in rows], [f"Evt{number}" for number in range(1, 20)])
        self.assertEqual({len(row) for row in rows}, {14})

    def test_each_action_occurs(self) -> None:
        """The 28 actions of Tables 9-6 to 9-9 are those of Table 9-10."""
        self.assertEqual(len(ACTIONS), 28)
        self.assertEqual(set(TRANSITIONS.values()), set(ACTIONS))
        self.assertEqual(set(STEPS), set(ACTIONS))

    def test_each_state_occurs(self) -> None:
        """Each state is led to by some cell."""
        led_to = {step(state, event, role)[2] for event, state in TRANSITIONS for role in Role}
        self.assertEqual(led_to, set(State))


class StepTests(SynchronousTestCase):
    """A step of the machine."""

    def test_each_filled_cell(self) -> None:
        """A filled cell gives its action, that action's effect, and the next state."""
        for (event, state), action in second_transcription().items():
            does, following = parse(STEPS[action])
            expected = (action, effect_of(does), following)
            self.assertEqual(step(state, event, Role.REQUESTOR), expected, (event, state))

    def test_empty_cells(self) -> None:
        """An event that cannot happen in a state is an error, for either role."""
        filled = second_transcription()
        empty = [cell for cell in CELLS if cell not in filled]
        self.assertEqual(len(empty), 124)
        for (event, state), role in product(empty, Role):
            self.assertRaises(KeyError, step, state, event, role)

    def test_release_collision(self) -> None:
        """At a release collision the requestor goes to Sta9 and the acceptor to Sta10 (AR-8)."""
        does, following = parse(AR_8_ACCEPTOR)
        self.assertEqual(
            step(State.STA7, Event.RELEASE_RQ, Role.REQUESTOR), ("AR-8", Effect.INDICATE, State.STA9)
        )
        self.assertEqual(
            step(State.STA7, Event.RELEASE_RQ, Role.ACCEPTOR), ("AR-8", effect_of(does), following)
        )

    def test_only_the_collision_depends_on_the_role(self) -> None:
        """Every other cell is the same for both roles."""
        differing = {
            action
            for (event, state), action in TRANSITIONS.items()
            if step(state, event, Role.REQUESTOR) != step(state, event, Role.ACCEPTOR)
        }
        self.assertEqual(differing, {"AR-8"})

    def test_refusal_by_the_provider(self) -> None:
        """The other branch of AE-6 is AE-6 and then AE-8, but for the indication."""
        does, following = parse(AE_6_UNACCEPTABLE)
        accepted, _ = parse(STEPS["AE-6"])
        rejected, after = parse(STEPS["AE-8"])
        self.assertEqual([deed for deed in accepted if "indicate" not in deed] + rejected, does)
        self.assertEqual(after, following)
        self.assertEqual(effect_of(does), ACTIONS["AE-8"][0])

    def test_effects_are_four(self) -> None:
        """An action sends, indicates, aborts, indicates an A-P-ABORT, or does nothing but lead on."""
        self.assertEqual([effect.name for effect in Effect], ["SEND", "INDICATE", "ABORT", "P_ABORT"])

    def test_states_of_a_role(self) -> None:
        """A requestor never waits as an acceptor does, nor the other way round."""
        common = {State.STA1, State.STA6, State.STA7, State.STA8, State.STA13}
        requestor = {State.STA4, State.STA5, State.STA9, State.STA11}
        acceptor = {State.STA2, State.STA3, State.STA10, State.STA12}
        self.assertEqual(reached(Role.REQUESTOR, Event.ASSOCIATE_REQUEST), common | requestor)
        self.assertEqual(reached(Role.ACCEPTOR, Event.TRANSPORT_INDICATION), common | acceptor)


def reached(role: Role, beginning: Event) -> set[State]:
    """Return the states that an association which begins so can reach."""
    states = {State.STA1}
    unseen = [(State.STA1, beginning)]
    while unseen:
        state, event = unseen.pop()
        following = step(state, event, role)[2]
        if following not in states:
            states.add(following)
            unseen += [(following, event) for event in Event if (event, following) in TRANSITIONS]
    return states


class StatementTests(SynchronousTestCase):
    """The two facts that let an action be so small, against the text of Tables 9-6 to 9-9."""

    def texts(self) -> list[tuple[Event, State, str]]:
        """Return each filled cell with what the standard says of it, in all branches."""
        texts = [(event, state, STEPS[action]) for (event, state), action in second_transcription().items()]
        texts.append((Event.ASSOCIATE_RQ, State.STA2, AE_6_UNACCEPTABLE))
        texts.append((Event.RELEASE_RQ, State.STA7, AR_8_ACCEPTOR))
        return texts

    def test_transport(self) -> None:
        """There is a transport connection, or one being opened, in every state but Sta1."""
        for event, state, text in self.texts():
            does, following = parse(text)
            connected = state is not State.STA1 and event is not Event.TRANSPORT_CLOSED
            for deed in does:
                if deed in ("connect transport", "accept transport"):
                    self.assertFalse(connected, (event, state))
                    connected = True
                elif deed == "close transport":
                    self.assertTrue(connected, (event, state))
                    connected = False
            self.assertEqual(connected, following is not State.STA1, (event, state))

    def test_artim(self) -> None:
        """ARTIM runs in Sta2 and Sta13, and nowhere else."""
        self.assertEqual(ARTIM_STATES, {State.STA2, State.STA13})
        for event, state, text in self.texts():
            does, following = parse(text)
            running = state in ARTIM_STATES and event is not Event.ARTIM_EXPIRED
            for deed in does:
                if deed.endswith(" ARTIM"):
                    running = deed.startswith("start")
            self.assertEqual(running, following in ARTIM_STATES, (event, state))

    def test_artim_expires_where_it_runs(self) -> None:
        """The states that know what to do when ARTIM expires are those in which it runs."""
        knowing = {state for event, state in TRANSITIONS if event is Event.ARTIM_EXPIRED}
        self.assertEqual(knowing, ARTIM_STATES)
