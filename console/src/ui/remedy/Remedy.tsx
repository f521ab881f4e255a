import { t } from "../../i18n";
import { Button } from "../Button";
import { Command } from "../Empty";
import { Failure } from "../Failure";
import { commandsIn } from "./commands";
import "./remedy.css";

/** An error as the server said it, and the commands that it names, each to copy. */
export function Remedy({ error, onRetry, onClose }: { error: unknown; onRetry?: () => void; onClose?: () => void }) {
  const commands = commandsIn(error instanceof Error ? error.message : "");
  return (
    <div class="remedy">
      <Failure error={error} onRetry={onRetry} />
      {commands.map((command) => (
        <Command key={command} text={command} />
      ))}
      {onClose && (
        <Button small onClick={onClose}>
          {t("action.close")}
        </Button>
      )}
    </div>
  );
}
