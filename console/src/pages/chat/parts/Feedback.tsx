import { useState } from "preact/hooks";
import { api } from "../../../api/client";
import { t } from "../../../i18n";
import { Button } from "../../../ui/Button";
import { CheckField, TextField } from "../../../ui/Field";
import { toast, toastError } from "../../../ui/Toast";
import { asText } from "../model/request";
import * as session from "../model/session";
import type { Message } from "../model/types";
import { say } from "../say";

/** Asks why, and sends a rating. The conversation goes along, and may be used for training, only if the user says so. */
export function Feedback({ message, rating, onClose }: { message: Message; rating: "up" | "down"; onClose: () => void }) {
  const [reason, setReason] = useState("");
  const [correction, setCorrection] = useState("");
  const [share, setShare] = useState(false);
  const [consent, setConsent] = useState(false);
  const [busy, setBusy] = useState(false);
  const send = async () => {
    setBusy(true);
    const turns = [...session.before(message.id), message];
    const body = {
      target_id: message.answer_id,
      rating,
      model: message.model,
      ...(reason.trim() === "" ? {} : { reason: reason.trim() }),
      ...(rating === "up" || correction.trim() === "" ? {} : { correction: correction.trim() }),
      ...(share && consent ? { consent: true } : {}),
      ...(share ? { messages: turns.map((one) => ({ role: one.role, content: asText(one) })) } : {}),
    };
    try {
      await api("/v1/feedback", { method: "POST", body });
      session.rate(message.id, rating);
      toast(say("feedback.thanks"));
      onClose();
    } catch (error) {
      toastError(error);
      setBusy(false);
    }
  };
  return (
    <form
      class="feedback card"
      onSubmit={(event) => {
        event.preventDefault();
        void send();
      }}
    >
      <TextField label={say(`feedback.${rating}`)} value={reason} onInput={setReason} rows={2} />
      {rating === "down" && <TextField label={say("feedback.correction")} value={correction} onInput={setCorrection} rows={2} />}
      <CheckField label={say("feedback.share")} value={share} onChange={setShare} />
      {share && <CheckField label={say("feedback.consent")} value={consent} onChange={setConsent} />}
      <div class="dialog-actions">
        <Button onClick={onClose}>{t("action.cancel")}</Button>
        <Button kind="primary" submit busy={busy}>
          {say("feedback.send")}
        </Button>
      </div>
    </form>
  );
}
