import { useState } from "preact/hooks";
import { api } from "../../../api/client";
import type { Page } from "../../../api/types";
import { t } from "../../../i18n";
import { Button } from "../../../ui/Button";
import { Dialog } from "../../../ui/Dialog";
import { Failure } from "../../../ui/Failure";
import { Icon } from "../../../ui/Icon";
import { useLoad } from "../../../ui/load";
import type { Message } from "../model/types";
import { say } from "../say";

interface AuditEntry {
  id: string;
  decision: string;
  layer: string;
  policy_hash: string;
  request_id: string | null;
  findings: { rule: string; layer: string }[];
}

const LOOKED_AT = 100; // entries; the decision was made moments ago

/** Says that the guard ended an answer, and leads to its reasons, which an operator's key may read. */
export function GuardNote({ message }: { message: Message }) {
  const [open, setOpen] = useState(false);
  return (
    <p class="message-note guard">
      <Icon name="safety" size={16} />
      {say("finish.filter")}
      <Button kind="quiet" small onClick={() => setOpen(true)}>
        {say("guard.why")}
      </Button>
      {open && <Decision requestId={message.request_id} onClose={() => setOpen(false)} />}
    </p>
  );
}

function Decision({ requestId, onClose }: { requestId: string | undefined; onClose: () => void }) {
  const { data, error, loading } = useLoad(
    (signal) => api<Page<AuditEntry>>("/v1/audit/entries", { query: { limit: LOOKED_AT }, signal }),
    [],
  );
  const entries = data?.data.filter((one) => requestId !== undefined && one.request_id === requestId) ?? [];
  return (
    <Dialog title={say("guard.title")} onClose={onClose}>
      {loading && <p role="status">{t("shell.loading")}</p>}
      {error ? <Failure error={error} /> : null}
      {data && entries.length === 0 && <p>{say("guard.none")}</p>}
      {entries.map((entry) => (
        <dl key={entry.id} class="facts">
          <dt>{say("guard.decision")}</dt>
          <dd>{entry.decision}</dd>
          <dt>{say("guard.layer")}</dt>
          <dd>{entry.layer}</dd>
          {entry.findings.map((one, place) => (
            <div key={place} class="facts-pair">
              <dt>{say("guard.rule")}</dt>
              <dd>
                <code>{one.rule}</code>
              </dd>
            </div>
          ))}
          <dt>{say("guard.policy")}</dt>
          <dd>
            <code>{entry.policy_hash.slice(0, 16)}</code>
          </dd>
        </dl>
      ))}
    </Dialog>
  );
}
