"""Starting the command line costs little."""

import subprocess
import sys

import pytest

from se_med.cli.app import COMMANDS, main


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from se_med.cli.app import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'monai', 'lightning', 'scipy', 'nibabel', 'matplotlib', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "train" in result.stdout


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_list_of_commands_says_what_each_says_of_itself(command, capsys):
    assert main([command, "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert COMMANDS[command] in page
    main(["--help"])
    assert COMMANDS[command][:30] in capsys.readouterr().out


def test_a_command_has_its_whole_help(capsys):
    assert main(["check", "--help"]) == 0
    assert "Writes check.json" in capsys.readouterr().out


def test_version():
    import se_med

    result = subprocess.run([sys.executable, "-m", "se_med", "--version"], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == se_med.__version__
