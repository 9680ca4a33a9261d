"""The simulated scenes, one module per task."""

from rlt_sim.scenes.charger import ChargerScene
from rlt_sim.scenes.ethernet import EthernetScene
from rlt_sim.scenes.screw import ScrewScene
from rlt_sim.scenes.zip_tie import ZipTieScene
from rlt_sim.task_scene import TaskScene

SCENES: dict[str, type[TaskScene]] = {
    scene.name: scene for scene in (ScrewScene, EthernetScene, ChargerScene, ZipTieScene)
}
"""Every scene by its name."""
