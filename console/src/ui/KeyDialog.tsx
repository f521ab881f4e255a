import { useState } from "preact/hooks";
import { t } from "../i18n";
import { declineKey, hasKey, keyQuestion, setKey } from "../state/key";
import { Button } from "./Button";
import { Dialog } from "./Dialog";
import { Command } from "./Empty";
import { TextField } from "./Field";

/** Asks for the API key while a question for it is open. */
export function KeyDialog() {
  return keyQuestion.value ? <Question refused={keyQuestion.value.refused} /> : null;
}

function Question({ refused }: { refused: boolean }) {
  const [key, setInput] = useState("");
  return (
    <Dialog title={t("key.title")} onClose={declineKey}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (key.trim() !== "") setKey(key);
        }}
      >
        <p>{t("key.lead")}</p>
        <TextField
          label={t("key.label")}
          type="password"
          value={key}
          onInput={setInput}
          error={refused ? t("key.refused") : undefined}
          autofocus
        />
        <p class="muted small">{t("key.hint")}</p>
        <Command text="deepwell keys create NAME" />
        <div class="dialog-actions">
          {hasKey.value && (
            <Button kind="quiet" onClick={() => setKey("")}>
              {t("key.forget")}
            </Button>
          )}
          <Button onClick={declineKey}>{t("action.cancel")}</Button>
          <Button kind="primary" submit disabled={key.trim() === ""}>
            {t("key.use")}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
