import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import { t } from "../i18n";
import { Button } from "./Button";

export interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  /** Buttons of the last row. */
  actions?: ComponentChildren;
  wide?: boolean;
  /** A drawer at the side instead of a window in the middle. */
  side?: "left" | "right";
}

/** A window above the page. The browser keeps the focus inside, closes it on Escape, and gives the focus back. */
export function Dialog({ title, onClose, children, actions, wide, side }: DialogProps) {
  const element = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    const dialog = element.current;
    if (dialog && !dialog.open) dialog.showModal();
    return () => {
      dialog?.close();
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  const classes = ["dialog", wide && "wide", side && `side ${side}`].filter(Boolean).join(" ");
  return (
    <dialog
      ref={element}
      class={classes}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onMouseDown={(event) => {
        if (event.target === element.current) onClose();
      }}
    >
      <div class="dialog-inner">
        <header class="dialog-head">
          <h2 id={id}>{title}</h2>
          <Button kind="quiet" icon="close" label={t("action.close")} onClick={onClose} />
        </header>
        <div class="dialog-body">{children}</div>
        {actions && <footer class="dialog-actions">{actions}</footer>}
      </div>
    </dialog>
  );
}

/** A question before something that cannot be undone. */
export function Confirm(props: {
  title: string;
  text: string;
  action: string;
  /** What the other button says, where "Cancel" could be taken for the action. */
  dismiss?: string;
  onYes: () => void;
  onClose: () => void;
}) {
  return (
    <Dialog
      title={props.title}
      onClose={props.onClose}
      actions={
        <>
          <Button onClick={props.onClose}>{props.dismiss ?? t("action.cancel")}</Button>
          <Button
            kind="danger"
            onClick={() => {
              props.onYes();
              props.onClose();
            }}
          >
            {props.action}
          </Button>
        </>
      }
    >
      <p>{props.text}</p>
    </Dialog>
  );
}
