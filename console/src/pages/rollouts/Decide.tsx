import { useState } from "preact/hooks";
import { t } from "../../i18n";
import { Button } from "../../ui/Button";
import { Dialog } from "../../ui/Dialog";
import { Failure } from "../../ui/Failure";
import { TextField } from "../../ui/Field";
import { say } from "./say";

export interface DecideProps {
  title: string;
  text: string;
  action: string;
  danger?: boolean;
  /** Does it, for a reason; what it throws is shown. */
  onYes: (reason: string) => Promise<void>;
  onClose: () => void;
}

const MOST_REASON = 500;

/** The question before a decision about a roll-out, with its reason for the ledger. */
export function Decide({ title, text, action, danger, onYes, onClose }: DecideProps) {
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const act = async () => {
    setBusy(true);
    setError(null);
    try {
      await onYes(reason.trim());
      onClose();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={title}
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind={danger ? "danger" : "primary"} busy={busy} onClick={() => void act()}>
            {action}
          </Button>
        </>
      }
    >
      <p>{text}</p>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (!busy) void act();
        }}
      >
        <TextField
          label={say("reason")}
          hint={say("reason.hint")}
          value={reason}
          onInput={(value) => setReason(value.slice(0, MOST_REASON))}
        />
        <button type="submit" class="unseen" tabIndex={-1} aria-hidden="true" />
      </form>
      {error !== null && <Failure error={error} />}
    </Dialog>
  );
}
