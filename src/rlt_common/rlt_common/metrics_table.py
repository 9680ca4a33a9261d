"""Every figure that the suite writes or publishes about a run: docs/metrics.md is made from this, and tests hold the
code against it.

A name in angle brackets stands for what a robot or a run gives: a camera, an input, a namespace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
    """One figure. `healthy` and `otherwise` are empty where there is nothing to judge."""

    meaning: str
    unit: str = ""
    healthy: str = ""
    otherwise: str = ""


LOG = "metrics.jsonl"
STATUS = "training_status"
ADAPT_LOG = "vla/metrics.jsonl"
ADAPT = "vla/metrics.json"

_BETA = "the weight of the distance to the reference (Eq. 5), as it is now; it may fall from `beta_start` to `beta`"
_Q = Metric(
    "mean TD target of the updates since the line before: what the critics expect over the whole replay",
    "discounted successes",
    "near `episode_return` of late",
    "far above: over-estimation; more `critics`, larger `beta`",
)
_CRITIC = Metric(
    "squared TD error, summed over the critics",
    "",
    "falls, then small and steady",
    "growing: lower `critic_lr` or `updates_per_transition`",
)
_DISTANCE = Metric(
    "root mean square of (actor mean - reference) over the batches, with the training dropout",
    "spreads of the demonstrations",
    "0.2 to 1",
    "near 0: the actor copies the VLA, lower `beta`; large: raise it",
)
_ACTOR_LOSS = Metric("loss of Eq. 5; before the actor drives, of the distance alone", "", "falls while a phase lasts")
_CRITIC_NORM = Metric(
    "L2 norm of the gradient over all critics, mean of every tenth update",
    "",
    "steady",
    "growing with `critic_loss`: lower `critic_lr`",
)
_ACTOR_NORM = Metric("the actor's, likewise", "", "steady", "growing: raise `beta` or lower `actor_lr`")
_RETURN = Metric(
    "mean discounted return that the transitions in the replay really had; a time-out counts 0",
    "discounted successes",
    "rises",
    "stays near 0: there is no success to learn from, intervene or begin nearer to the goal",
)
_OWED = Metric(
    "updates to be paid",
    "critic updates",
    "0 in lockstep; on a robot back to 0 between episodes",
    "growing: the learner is too slow for the data; a faster machine, `products: auto`, or a lower "
    "`updates_per_transition`",
)
_STAGE = Metric("`warmup`, `initial` (first updates, the actor does not drive yet) or `online`")
_VERSION = Metric("newest actor", "", "rises by one or more with each episode once the actor drives")
_RATE = Metric("pace of the updates", "1/s", "above what an episode adds, divided by its length")
_REFUSED = Metric("messages refused", "", "0", "another version, robot file, task or VLA: the log names it")
_SCHEDULING = Metric("priority and cores of the process, or why the system refused them", "", "as the parameters ask")

METRICS: Mapping[str, Mapping[str, Metric]] = {
    LOG: {
        "time": Metric("when the line was written", "s since 1970"),
        "episode": Metric("number of the episode; its robot counts it"),
        "robot": Metric("its robot's namespace, where one learner learns from several"),
        "label": Metric(
            "`success`, `failure` or `timeout`, as it was when the episode was taken in; `labels.jsonl` corrects it"
        ),
        "critical_steps": Metric("length of the critical phase", "control steps", "falls once the actor drives"),
        "human_steps": Metric(
            "of these, chosen by a human",
            "control steps",
            "fewer with time",
            "rising: look at cameras, lighting and scene before anything else",
        ),
        "held_steps": Metric(
            "of these, without a chunk: the arms held",
            "control steps",
            "below 2 %",
            "chunks come late: raise `prefetch_steps`, or a faster VLA",
        ),
        "transitions": Metric("chunks that the episode gave to the replay", "", "critical_steps / stride"),
        "stage": _STAGE,
        "episodes": Metric("taken in so far, of all robots"),
        "robot_steps": Metric("control steps of all their critical phases: robot time", "control steps"),
        "replay": Metric("transitions held; the oldest episodes leave first", "", "below `replay_capacity`"),
        "replay_demonstrations": Metric("of these, of demonstrations", "", "not 0 where there are demonstrations"),
        "replay_interventions": Metric("of these, of practice, beginning with a human's action"),
        "replay_mb": Metric("memory of the transitions", "MB", "well below the machine's memory"),
        "updates": Metric("critic updates made"),
        "owed": _OWED,
        "updates_per_s": _RATE,
        "take_in_s": Metric(
            "from the label to the episode in the replay; in lockstep its updates are paid by then. null: it ended "
            "while the learner was away",
            "s",
            "below 1 and the time of its updates",
            "near `assembly_timeout_s`: messages are lost on the way",
        ),
        "from_journal": Metric(
            "something of the episode did not come on the topics and was read from its file",
            "",
            "false, but after a restart of the learner",
            "often true: a slow network, or a machine under load; nothing is lost by it",
        ),
        "refused_messages": _REFUSED._replace(meaning="messages that the learner refused since its start"),
        "actor_version": _VERSION,
        "critic_loss": _CRITIC,
        "q_mean": _Q,
        "episode_return": Metric(
            "mean discounted return that the transitions of this episode really had",
            "discounted successes",
            "rises",
            "falls for long: the last actors are worse than those before",
        ),
        "return_mean": _RETURN,
        "actor_loss": _ACTOR_LOSS,
        "reference_distance": _DISTANCE,
        "beta": Metric(_BETA),
        "critic_gradient_norm": _CRITIC_NORM,
        "actor_gradient_norm": _ACTOR_NORM,
    },
    STATUS: {
        "stage": _STAGE,
        "ready": Metric("the actor may drive", "", "true after `initial`"),
        "busy": Metric("updates are owed or episodes wait to be taken in", "", "false between episodes"),
        "last_episode_id": Metric("newest episode of this robot taken in, or skipped with the reason logged"),
        "episodes": Metric("as in `metrics.jsonl`"),
        "transitions": Metric("`replay` of `metrics.jsonl`"),
        "robot_steps": Metric("control steps in the replay, those of demonstrations too"),
        "updates": Metric("critic updates made"),
        "update_debt": _OWED,
        "actor_version": _VERSION,
        "critic_loss": _CRITIC,
        "actor_loss": _ACTOR_LOSS,
        "q_mean": _Q,
        "reference_distance": _DISTANCE,
        "updates_per_s": _RATE,
        "message": Metric("what the learner waits for, or what went wrong", "", "empty"),
        "beta": Metric(_BETA),
        "return_mean": _RETURN,
        "critic_gradient_norm": _CRITIC_NORM,
        "actor_gradient_norm": _ACTOR_NORM,
        "advice": Metric("what these figures say to the operator ([rules](#advice))", "", "none"),
    },
    ADAPT: {
        "frames": Metric("frames that the figures are taken on"),
        "held_out": Metric("whether these were kept out of training", "", "true", "too few demonstrations"),
        "flow_loss": Metric("L_vla on them", "", "below its value in training's first steps"),
        "flow": Metric("the same, of a VLA of another backend"),
        "chunk_error": Metric(
            "root mean square of (sampled - demonstrated action) over the first 10 rows",
            "spreads of the demonstrations",
            "below 1",
            "the VLA does not imitate: more demonstrations or steps",
        ),
        "embedding_variance": Metric("of the embeddings between frames", "", "above 0", "0: the stems are blind"),
        "reconstruction_loss": Metric(
            "L_ro (Eq. 2)",
            "",
            "well below `shuffled_loss`: the decoder needs z_rl",
            "equal: the decoder ignores the token; raise `context_dropout` or train longer",
        ),
        "shuffled_loss": Metric("the same, with z_rl exchanged between frames"),
        "reconstruction": Metric("`reconstruction_loss` of a VLA of another backend"),
        "shuffled": Metric("`shuffled_loss` of one"),
        "auxiliary_error": Metric(
            "of the pose of the opening, as the stems see it, per component (simulation)",
            "m, rad",
            "below the task's tolerance",
            "the policy will fail for want of sight: look at the cameras first",
        ),
        "probe_rl_token": Metric(
            "error of a linear map of z_rl to that pose",
            "m, rad",
            "far below `probe_proprioception`",
            "z_rl does not see what matters: look at the cameras, then train longer",
        ),
        "probe_proprioception": Metric("the same of proprioception alone", "m, rad"),
        "probe_both": Metric("the same of both", "m, rad"),
        "probe_state": Metric(
            "share of the variance of each value of the state that a linear map of z_rl explains", "", "near 1"
        ),
    },
    ADAPT_LOG: {
        "stage": Metric("0: pre-training on poses; 1: L_ro + alpha L_vla. Of the built-in VLA only"),
        "step": Metric("optimiser steps of the stage"),
        "steps_per_s": Metric("pace", "1/s"),
        "flow": Metric("L_vla, running mean", "", "falls"),
        "reconstruction": Metric("L_ro, running mean", "", "falls"),
        "auxiliary": Metric("loss of the poses, running mean", "", "falls"),
        "gradient_norm": Metric("before it is clipped", "", "steady", "growing: lower `learning_rate`"),
        "validation_flow": Metric("L_vla on held-out frames", "", "falls", "rises: it over-fits, stop earlier"),
        "validation_reconstruction": Metric("L_ro on held-out frames", "", "falls", "rises: stop earlier"),
        "validation_shuffled": Metric(
            "the same with z_rl exchanged between frames", "", "well above `validation_reconstruction`"
        ),
    },
    "chunk_executor": {
        "ticks": Metric("control ticks since the start"),
        "missed_ticks": Metric(
            "started more than half a period late",
            "ticks",
            "0",
            "the robot PC is overloaded: [what to set](robot_pc.md)",
        ),
        "late_p50_ms": Metric("how late ticks start, median of the last minute", "ms", "below 0.5"),
        "late_p99_ms": Metric("the same, 99th percentile", "ms", "below half a period", "[what to set](robot_pc.md)"),
        "late_p999_ms": Metric("the same, 99.9th percentile", "ms", "below half a period"),
        "late_max_ms": Metric("the latest of the last minute", "ms", "below a period"),
        "late_over_5_ms": Metric("ticks later than that, since the start", "ticks", "0"),
        "late_over_20_ms": Metric("the same", "ticks", "0"),
        "scheduling": _SCHEDULING,
        "held_ticks": Metric(
            "without an action, inside an episode",
            "ticks",
            "near 0",
            "chunks come late: raise `prefetch_steps`; else its message says why the arms hold",
        ),
        "clamped_ticks": Metric(
            "in which a limit changed the command",
            "ticks",
            "few",
            "many: the policy pushes against a limit; look at `clamped` in `executed_action`, then at the limits",
        ),
        "dropped_chunks": Metric(
            "refused: stale, malformed, or nobody asked",
            "chunks",
            "one or two per hand-off and intervention",
            "rising all the time: `last_refusal` says why",
        ),
        "last_refusal": Metric("why the last message was refused"),
        "input <name>": Metric(
            "age of a watched input, its time-out, and its fault",
            "ms",
            "age below the time-out",
            "the arms hold: [inputs](architecture.md#what-keeps-the-arms-safe)",
        ),
    },
    "rl_policy": {
        "chunks": Metric("chunks made since the start"),
        "actor_version": Metric("of the actor that it has"),
        "dropped_requests": Metric("chunk requests that were replaced before they were answered", "", "near 0"),
        "reference_distance": Metric(
            "of the last chunk: root mean square of (chunk - reference)", "spreads of the demonstrations", "below 2"
        ),
        "scheduling": _SCHEDULING,
    },
    "rl_learner": {
        "updates": Metric("critic updates made"),
        "owed": _OWED,
        "transitions": Metric("in the replay"),
        "replay_mb": Metric("memory of these", "MB"),
        "actor_version": _VERSION,
        "refused_messages": _REFUSED,
        "last_episode.<robot>": Metric("newest episode taken in, per robot where there are several"),
    },
    "vla": {
        "vla_hash": Metric("of the frozen VLA and RL token"),
        "device": Metric("where it computes", "", "the GPU where there is one", "PyTorch finds none: `nvidia-smi`"),
        "torch": Metric("version of PyTorch"),
        "threads": Metric("of a processor, that it computes with"),
        "handoff_head": Metric("`loaded` or `none`"),
        "boundary_outputs": Metric("observations encoded for a chunk"),
        "strided_outputs": Metric("observations encoded for the replay"),
        "pending": Metric("observations that wait to be encoded", "", "below 20", "rising: inference is too slow"),
        "repeated_requests": Metric("requests that the executor had to say again", "", "near 0"),
        "dropped_requests": Metric("requests replaced by newer ones", "", "near 0"),
        "dropped_observations": Metric(
            "strided observations left out", "", "0", "inference is slower than the robot: a GPU, or a larger `stride`"
        ),
        "clock_resets": Metric(
            "jumps of the clock back, seen in observations", "", "0", "a clock was set while it ran"
        ),
        "refused_observations": Metric("that do not fit the robot file", "", "0"),
        "boundary_ms": Metric(
            "time to answer the last request", "ms", "below `prefetch_steps` control periods", "raise `prefetch_steps`"
        ),
        "prefetch_steps_needed": Metric("`prefetch_steps` that its times ask for", "", "at most the task's"),
        "timing_notes": Metric("what else its times mean, as of `group_size`", "", "empty"),
        "scheduling": _SCHEDULING,
    },
    "camera_ingest": {
        "observations": Metric("put together since the start", "", "25 per s, control rate / stride"),
        "refused": Metric("images or states refused", "", "0", "its message says why"),
        "unmatched_states": Metric(
            "states without images near enough in time", "", "few", "rising: [clocks and delays](cameras.md)"
        ),
        "repeated_images": Metric("images with a stamp that was there before", "", "0", "the camera's driver stalls"),
        "clock_resets": Metric("jumps of the clock", "", "0", "a clock was set while it ran"),
        "images_<camera>": Metric("images of a camera since the start", "", "rising at its rate"),
        "input <name>": Metric("age of a joint state input, as in chunk_executor", "ms"),
        "camera <name>": Metric(
            "rate, age and skew of a camera, and exposure",
            "Hz, ms",
            "its rate; skew below half a stride",
            "[cameras](cameras.md)",
        ),
    },
    "v4l2_camera": {"camera <name>": Metric("rate of the device, or why it gives none", "Hz", "its rate")},
    "recorder": {
        "messages": Metric("written of the current episode"),
        "refused_messages": _REFUSED,
        "last_durable": Metric("path of the last episode that is safe on the disk"),
        "warning": Metric("what its file lacks", "", "empty"),
        "episodes_gib": Metric("size of the episode files, where `retention.keep_gib` limits it", "GiB"),
        "free_gib": Metric("free on the disk", "GiB", "above `low_space_gib`", "free some; the run goes on from there"),
    },
    "episode_manager": {
        "episode": Metric("running or last episode"),
        "episodes": Metric("confirmed in this run"),
        "successes": Metric("of these"),
        "training_episodes": Metric("of these, of practice: the curriculum counts them"),
        "start_in": Metric("stage of the curriculum"),
        "last_label": Metric("label of the last episode"),
        "last_refusal": Metric("why a request was refused"),
    },
    "auto_handoff": {
        "probability": Metric("that the critical phase has begun, last output", "", "rises once per episode"),
        "in_a_row": Metric("outputs above the threshold in a row"),
        "calls": Metric("hand-offs asked for"),
        "accepted": Metric("of these, accepted", "", "equal to `calls`"),
        "stale_outputs": Metric("outputs of another episode or epoch", "", "few"),
    },
    "joy_operator": {
        "arm": Metric("arm that is selected"),
        "events": Metric("button presses passed on"),
        "refused": Metric("messages refused", "", "0"),
        "button <action>": Metric("what is written on the button of an action"),
    },
    "operator_page": {
        "pages": Metric("browsers that are connected"),
        "dropped_pages": Metric("connections given up because they took nothing any more", "", "few", "a bad network"),
        "turned_away": Metric("connections refused", "", "0", "a wrong token, or more browsers than it serves"),
        "presses": Metric("presses of buttons passed on"),
        "refused_presses": Metric("of others that came too late or did not fit", "", "few"),
        "stops": Metric("emergency stops from a page"),
        "unreadable_observations": Metric("observations whose images it could not show", "", "0"),
    },
    "gamepad": {
        "wanted": Metric("device that is looked for"),
        "rumble_problem": Metric("why it does not rumble", "", "empty"),
    },
    "views": {"shown": Metric("observations shown under view/")},
    "sim_robot": {"step": Metric("simulated control step"), "episode": Metric("episode in the simulator")},
    "scripted_operator": {"presses": Metric("buttons that the script pressed")},
}
"""Where a figure is found -> its name -> what it means. Names that are no file and no topic are nodes, on
/diagnostics."""

FILES = (LOG, STATUS, ADAPT, ADAPT_LOG)
