import { ApiError } from "../api/errors";
import { t } from "../i18n";
import { Button } from "./Button";
import { Icon } from "./Icon";

/** An error as the server said it, with what to do about it. */
export function Failure({ error, onRetry }: { error: unknown; onRetry?: () => void }) {
  const message = error instanceof Error ? error.message : String(error);
  const known = error instanceof ApiError ? error : null;
  return (
    <div class="failure" role="alert">
      <Icon name="warn" />
      <div>
        <p>{message}</p>
        {known?.fix && <p class="muted">{known.fix}</p>}
        {known?.requestId && <p class="muted small">{t("error.request", { id: known.requestId })}</p>}
      </div>
      {onRetry && (
        <Button small onClick={onRetry}>
          {t("action.retry")}
        </Button>
      )}
    </div>
  );
}
