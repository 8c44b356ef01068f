"""The `skep` command: which module serves which word, loaded only when the word is typed.

Edge: the terminal. Start-up time is a feature: this module imports click and nothing of Skep's own.
"""

import importlib
from typing import Final

import click
from click.shell_completion import CompletionItem

import skep

COMMANDS: Final = {
    "attach": ("skep.cli.commands.terminal:attach", "Connect to the program of a task or container."),
    "backup": ("skep.cli.commands.backup:backup", "Save the whole swarm in a sealed file, and restore it."),
    "cluster": ("skep.cli.commands.cluster:cluster", "See how the managers fare, and recover."),
    "completion": ("skep.cli.commands.completion:completion", "Print what makes a shell complete skep's words."),
    "config": ("skep.cli.commands.files:config", "Manage configs: files for services."),
    "cp": ("skep.cli.commands.copy:cp", "Copy files into or out of a task or container."),
    "daemon": ("skep.daemon.commands:daemon", "Run the daemon that makes this machine a node."),
    "events": ("skep.cli.commands.system:events", "Show what happens, as it happens."),
    "exec": ("skep.cli.commands.terminal:execute", "Run a command in a task or container, wherever it is."),
    "info": ("skep.cli.commands.system:info", "Show this node and its swarm."),
    "inspect": (
        "skep.cli.commands.containers:inspect",
        "Show everything known of a container, or of what is called so.",
    ),
    "kill": ("skep.cli.commands.containers:kill", "Send a signal to tasks or containers."),
    "lab": ("skep.lab.commands:lab", "A whole swarm on one machine."),
    "logs": ("skep.cli.commands.containers:logs", "Show what a task or container has printed."),
    "network": ("skep.cli.commands.network:network", "Manage networks."),
    "node": ("skep.cli.commands.node:node", "Manage the nodes of a swarm."),
    "ps": ("skep.cli.commands.containers:ps", "List containers: this node's, and those of tasks everywhere."),
    "restart": ("skep.cli.commands.containers:restart", "Stop and start containers."),
    "rm": ("skep.cli.commands.containers:rm", "Remove containers."),
    "secret": ("skep.cli.commands.files:secret", "Manage secrets: files for services that nobody else sees."),
    "service": ("skep.cli.commands.service:service", "Manage services."),
    "stack": ("skep.cli.commands.stack:stack", "Manage applications described by Compose files."),
    "start": ("skep.cli.commands.containers:start", "Start containers that are stopped."),
    "stats": ("skep.cli.commands.stats:stats", "Show what tasks and containers use."),
    "stop": ("skep.cli.commands.containers:stop", "Stop tasks or containers."),
    "swarm": ("skep.cli.commands.swarm:swarm", "Make, join, leave and change a swarm."),
    "system": ("skep.cli.commands.system:system", "Look at this node as a whole."),
    "task": ("skep.cli.commands.explain:task", "Look into single tasks."),
    "top": ("skep.cli.commands.containers:top", "List the processes of a task or container."),
    "version": ("skep.cli.commands.system:version", "Show the versions of client and daemon."),
    "volume": ("skep.cli.commands.volume:volume", "Manage volumes of this node."),
}


class LazyGroup(click.Group):
    """Knows its commands' names and one line each; imports a command's module when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 -- a table of our own; tests load every entry
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Answer from the table; click's own way would import every command to ask whether it is hidden."""
        fitting = [name for name in sorted(COMMANDS) if name.startswith(incomplete)]
        named = [CompletionItem(name, help=COMMANDS[name][1]) for name in fitting]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-H", "--host", envvar="DOCKER_HOST", help="Daemon to talk to: unix:///path or tcp://host:port.")
@click.version_option(skep.__version__, "-v", "--version", message="Skep version %(version)s")
@click.pass_context
def main(ctx: click.Context, host: str | None) -> None:
    """A handful of Linux machines as one swarm, in Docker's words.

    \b
    Examples:
      skep swarm init --advertise-addr 192.168.1.10
      skep service create --name web --replicas 3 -p 8080:80 nginx
      skep ps
    """
    ctx.obj = host
